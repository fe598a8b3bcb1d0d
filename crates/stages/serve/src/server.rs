//! Binds, serves, shuts down.

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use cupola_artifact::{Context, Error, Result};
use cupola_generate::{Engine, Reader, SamplingParams, is_encoder};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::backend::Backend;
use crate::config::ServeConfig;
use crate::reading::reading_router;
use crate::resolve::model_name;
use crate::routes::router;

/// A bound server, in its own runtime.
pub struct Server {
    runtime: Runtime,
    listener: TcpListener,
    address: SocketAddr,
    grace: Duration,
}

impl Server {
    /// Takes the address; nothing is answered before [`Server::run`].
    pub fn bind(config: &ServeConfig) -> Result<Self> {
        config.validate()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("cupola-serve")
            .enable_all()
            .build()
            .context(|| "starting the server's threads".into())?;
        let listener = runtime
            .block_on(TcpListener::bind((config.host.as_str(), config.port)))
            .map_err(|error| bind_error(error, config))?;
        let address = listener.local_addr().context(|| "reading the server's address".into())?;
        Ok(Self { runtime, listener, address, grace: Duration::from_secs(config.shutdown_seconds) })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is done; then takes nothing new, lets running requests end, and cancels those that have not
    /// ended when the time for that is up.
    pub fn run(self, router: Router, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let Self { runtime, listener, grace, .. } = self;
        let result = runtime.block_on(async move {
            let (stopping, stopped) = oneshot::channel();
            let graceful = axum::serve(listener, router).with_graceful_shutdown(async move {
                stop.await;
                // The other end is gone only when serving ended by itself.
                let _ = stopping.send(());
            });
            let deadline = async {
                // An error means the same as the message: stopping has begun.
                let _ = stopped.await;
                tokio::time::sleep(grace).await;
            };
            tokio::select! {
                result = graceful => result.context(|| "serving".into()),
                () = deadline => Ok(()),
            }
        });
        // Drops the connections that are left, which cancels their sequences.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    }

    /// Answers on a thread of its own until the handle is stopped or dropped.
    pub fn spawn(self, router: Router) -> Result<Handle> {
        let address = self.address;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("cupola-serve".into())
            .spawn(move || {
                self.run(router, async {
                    // A dropped handle means the same as the message.
                    drop(stopped.await);
                })
            })
            .context(|| "starting the server's thread".into())?;
        Ok(Handle { address, stop: Some(stop), thread: Some(thread) })
    }
}

/// A server that runs in the background.
pub struct Handle {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Handle {
    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shuts down and waits for it.
    pub fn stop(mut self) -> Result<()> {
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        self.stop.take();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| Error::failed("the server's thread panicked"))?
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // `stop` reports errors; whoever drops the handle does not want them.
        drop(self.join());
    }
}

/// Serves a model until SIGINT or SIGTERM. The address is taken before the model is loaded; `on_ready` is called when
/// requests are answered.
pub fn serve(model_dir: &Path, config: &ServeConfig, device: &str, on_ready: impl FnOnce(SocketAddr)) -> Result<()> {
    let mut config = config.clone().with_environment();
    config.sampling = config.sampling.or(&SamplingParams::of_model(model_dir)?)?;
    let server = Server::bind(&config)?;
    if is_encoder(model_dir)? {
        if !config.adapters.is_empty() {
            return Err(Error::usage("adapters are served with models that write"));
        }
        let reader = Reader::load(model_dir, device)?;
        on_ready(server.address());
        return server.run(reading_router(reader, &config, &model_name(model_dir)), signalled());
    }
    let engine = Engine::load_with(model_dir, &config.adapters, device, &config.engine)?;
    let backend: Arc<dyn Backend> = Arc::new(engine);
    on_ready(server.address());
    server.run(router(backend, &config, &model_name(model_dir)), signalled())
}

/// Waits for SIGINT (Ctrl-C) or SIGTERM.
async fn signalled() {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                () = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    interrupt.await;
}

fn bind_error(error: std::io::Error, config: &ServeConfig) -> Error {
    let ServeConfig { host, port, .. } = config;
    let hint = match error.kind() {
        ErrorKind::AddrInUse => {
            format!(
                "another program listens on port {port}: stop it, or choose another port with `--port` (0 takes a free one)"
            )
        }
        ErrorKind::AddrNotAvailable => "`host` must be an address of this machine, e.g. 127.0.0.1 or 0.0.0.0".into(),
        ErrorKind::PermissionDenied => "ports below 1024 belong to the administrator; choose a higher one".into(),
        _ => "`host` must be a name or an address of this machine, e.g. 127.0.0.1 or 0.0.0.0".into(),
    };
    Error::failed(format!("cannot listen on {host}:{port}")).with_source(error).with_hint(hint)
}
