//! Every reader on any bytes: the first byte chooses the format, what follows is the file. It ends in records or an error, in
//! bounded memory (libFuzzer's `-rss_limit_mb`, 2048 by default) and time (`-timeout`), and no panic gets out.
#![no_main]

use std::panic::{catch_unwind, set_hook};
use std::sync::Once;

use libfuzzer_sys::fuzz_target;

static QUIET: Once = Once::new();

fuzz_target!(|data: &[u8]| {
    // The fuzzer ends at every panic, also at those of the Parquet reader that ours turns into errors; only what gets out counts.
    QUIET.call_once(|| set_hook(Box::new(|_| {})));
    if catch_unwind(|| cupola_records::read_named_by_first_byte(data)).is_err() {
        std::process::abort();
    }
});
