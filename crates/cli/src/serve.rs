//! `cupola serve`: a model behind an OpenAI-style API and a web page.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use cupola_artifact::Result;
use cupola_serve::{API_KEY_VARIABLE, resolve_model, serve};

use crate::args::ServeArgs;
use crate::out;

/// `cupola serve`.
pub fn run(args: &ServeArgs) -> Result<()> {
    let (model, mut config) = resolve_model(&args.model)?;
    if let Some(host) = &args.host {
        config.host.clone_from(host);
    }
    if let Some(port) = args.port {
        config.port = port;
    }
    config.adapters.extend(args.adapters.iter().cloned());
    let config = config.with_environment();
    let has_key = config.api_key.is_some();
    out::note(&format!("loading {}", model.display()));
    serve(&model, &config, args.device.name(), |address| announce(address, has_key))?;
    out::note("stopped");
    Ok(())
}

fn announce(address: SocketAddr, has_key: bool) {
    // 0.0.0.0 is where the server listens, not where a browser finds it.
    let shown = match address.ip() {
        ip if !ip.is_unspecified() => address,
        _ => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()),
    };
    out::say(&format!("chat      http://{shown}/\nAPI       http://{shown}/v1\nmetrics   http://{shown}/metrics"));
    if has_key {
        out::note(&format!("clients need the API key that {API_KEY_VARIABLE} holds"));
    } else if !address.ip().is_loopback() {
        out::note(&format!(
            "warning: everybody who can reach {address} can use the model; set {API_KEY_VARIABLE} to ask for a key"
        ));
    }
    out::note("Ctrl-C stops the server");
}
