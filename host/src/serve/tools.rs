//! What a server runs tools with: here, and on other computers.

use std::path::PathBuf;

use super::ServeError;
use crate::config::Settings;
use crate::data_dir::{self, PathError};
use crate::exec::remote::RemoteExec;
use crate::exec::{LocalExec, LocalExecConfig};
use crate::net::Net;
use crate::ssh::{HostKeys, SshComputers};
use crate::store::Store;

/// Where and how tools run on this computer.
pub(super) fn local_config(settings: &Settings) -> LocalExecConfig {
    let mut config = LocalExecConfig::new(settings.places.data_dir.clone());
    let names = settings.providers.iter().filter_map(|p| p.key_env.clone());
    config.secret_env.extend(names);
    let names = settings
        .webhooks
        .iter()
        .filter_map(|w| w.secret_env.clone());
    config.secret_env.extend(names);
    config
}

pub(super) fn local(config: LocalExecConfig) -> Result<LocalExec, ServeError> {
    let path = config.data_dir.clone();
    let exec = LocalExec::new(config).map_err(|cause| PathError { path, cause });
    Ok(exec?)
}

/// The computers of the user who runs this server.
pub(super) async fn computers<N: Net>(
    settings: &Settings,
    exec: &LocalExecConfig,
    store: &dyn Store,
    net: N,
) -> Result<SshComputers<N>, ServeError> {
    let dir = &settings.places.data_dir;
    let installation = match store.installation().await? {
        Some(shared) => shared,
        None => data_dir::node(dir)?.name,
    };
    let known = settings.ssh.known(exec.secret_env.clone());
    let exec = RemoteExec::new(&installation, exec.output_limit_bytes);
    Ok(SshComputers::new(net, known, HostKeys::new(dir), exec))
}

/// C4's last resort.
pub(super) fn default_cwd(settings: &Settings) -> Result<PathBuf, ServeError> {
    let cwd = PathBuf::from(&settings.tools.cwd);
    let here = std::env::current_dir().map(|here| here.join(&cwd));
    Ok(here.map_err(|cause| PathError { path: cwd, cause })?)
}
