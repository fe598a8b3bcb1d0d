//! Ctrl-C for programs with a conversation: it ends the current answer and not the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cupola_artifact::{Context, Result};

/// From now on SIGINT does not end the program but sets the flag, which its reader clears.
pub fn catch_interrupts() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "preparing to catch Ctrl-C".into())?;
    let seen = flag.clone();
    std::thread::Builder::new()
        .name("cupola-interrupt".into())
        .spawn(move || {
            runtime.block_on(async {
                while tokio::signal::ctrl_c().await.is_ok() {
                    seen.store(true, Ordering::SeqCst);
                }
            });
        })
        .context(|| "preparing to catch Ctrl-C".into())?;
    Ok(flag)
}
