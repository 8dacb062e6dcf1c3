//! A link to a computer: the way there, the handshake, and its end.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use russh::client::Msg;
use russh::{ChannelStream, Disconnect};
use russh_sftp::client::SftpSession;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::channel::{self, Shared, detached};
use super::known_hosts::HostKeys;
use super::link::{ExecDone, Link, LinkError};
use super::session::{self, Down, lost, through};
use super::settings::{ComputerSettings, Route};
use super::socket::{Duplex, ProxyPipes};
use crate::exec::env::scrub;
use crate::net::{DnsError, Net};
use dispatch_core::computer::{SshFault, SshFaultKind};

/// How long a link may take to come about (T10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SshLimits {
    /// From looking its name up to a connection; for each hop.
    pub connect: Duration,
    /// From the connection to being let in; for each hop.
    pub handshake: Duration,
}

/// How long a goodbye may take before the socket is closed under it.
const FAREWELL: Duration = Duration::from_millis(500);

/// An authenticated connection to a computer. Dropping it ends it, with all
/// that runs on it.
pub struct SshLink {
    shared: Arc<Shared>,
    cut: CancellationToken,
    /// Whatever becomes of the link, its session ends with it.
    _cut_on_drop: DropGuard,
}

/// Connects to a computer and logs in.
///
/// Whatever happens, the outcome is there after `connect` and `handshake`
/// together, jump hosts included, and nothing is left of a failed attempt.
///
/// # Errors
/// [`SshFault`].
pub async fn connect<N: Net>(
    computer: &ComputerSettings,
    net: &N,
    keys: &HostKeys,
    limits: SshLimits,
) -> Result<SshLink, SshFault> {
    let all = limits.connect.saturating_add(limits.handshake);
    let link = timeout(all, reach(computer, net, keys, limits)).await;
    link.unwrap_or_else(|_| {
        let message = format!(
            "{} was not reached within {} ms in all; check it and its jump hosts",
            computer.title(),
            all.as_millis()
        );
        Err(SshFault::new(SshFaultKind::Timeout, message))
    })
}

/// One hop, and those before it.
fn reach<'r, N: Net>(
    computer: &'r ComputerSettings,
    net: &'r N,
    keys: &'r HostKeys,
    limits: SshLimits,
) -> BoxFuture<'r, Result<SshLink, SshFault>> {
    Box::pin(async move {
        match &computer.route {
            Route::Direct => {
                let stream = dial(computer, net, limits.connect).await?;
                talk(computer, keys, stream, None, limits).await
            }
            Route::Command { line, secrets } => {
                let pipes = run_proxy(computer, line, secrets)?;
                talk(computer, keys, pipes, None, limits).await
            }
            Route::Jump(hops) => {
                let told = |fault: SshFault| through(&computer.title(), &fault);
                let mut via: Option<SshLink> = None;
                for hop in hops {
                    let link = match via {
                        None => reach(hop, net, keys, limits).await,
                        Some(via) => jump(hop, keys, via, limits).await,
                    };
                    via = Some(link.map_err(told)?);
                }
                let via = via.ok_or_else(|| no_hop(computer))?;
                jump(computer, keys, via, limits).await
            }
        }
    })
}

/// From a jump host to the next computer.
async fn jump(
    computer: &ComputerSettings,
    keys: &HostKeys,
    via: SshLink,
    limits: SshLimits,
) -> Result<SshLink, SshFault> {
    let stream = via.tunnel(computer, limits.connect).await?;
    talk(computer, keys, stream, Some(via), limits).await
}

async fn talk(
    computer: &ComputerSettings,
    keys: &HostKeys,
    stream: impl Duplex + 'static,
    via: Option<SshLink>,
    limits: SshLimits,
) -> Result<SshLink, SshFault> {
    let known = keys.of(computer)?;
    let session = session::open(computer, known, stream, via, limits.handshake).await?;
    let cut = session.cut.disarm();
    Ok(SshLink {
        shared: Arc::new(Shared::new(computer.title(), session.handle, session.down)),
        _cut_on_drop: cut.clone().drop_guard(),
        cut,
    })
}

async fn dial<N: Net>(
    computer: &ComputerSettings,
    net: &N,
    limit: Duration,
) -> Result<N::Stream, SshFault> {
    let title = computer.title();
    let error = match timeout(limit, net.connect(&computer.host, computer.port)).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => error,
        Err(_) => {
            let message = format!(
                "no connection to {title} within {} ms; check that it is up and reachable from here",
                limit.as_millis()
            );
            return Err(SshFault::new(SshFaultKind::Timeout, message));
        }
    };
    let is_dns = error.get_ref().is_some_and(|inner| inner.is::<DnsError>());
    let remedy = match (is_dns, error.kind()) {
        (true, _) => "check HostName in the SSH configuration",
        (false, std::io::ErrorKind::ConnectionRefused) => {
            "check that sshd runs there and that the port is right"
        }
        (false, _) => "check that it is up and reachable from here",
    };
    Err(SshFault::new(
        SshFaultKind::Unreachable,
        format!("cannot connect to {title}: {error}; {remedy}"),
    ))
}

fn no_hop(computer: &ComputerSettings) -> SshFault {
    let message = format!("{} has an empty ProxyJump; name a host", computer.title());
    SshFault::new(SshFaultKind::Config, message)
}

/// Starts a proxy command, its pipes for a connection.
fn run_proxy(
    computer: &ComputerSettings,
    command: &str,
    secrets: &[String],
) -> Result<ProxyPipes, SshFault> {
    let config = |what: String| {
        let message = format!("the ProxyCommand of {} {what}", computer.title());
        SshFault::new(SshFaultKind::Config, message)
    };
    let line = expand(computer, command).map_err(config)?;
    let mut shell = std::process::Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(format!("exec {line}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    scrub(&mut shell, secrets);
    let mut shell = tokio::process::Command::from(shell);
    let started = shell.kill_on_drop(true).spawn();
    let mut child = started.map_err(|error| config(format!("cannot be started: {error}")))?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(input), Some(output)) => Ok(ProxyPipes {
            output,
            input,
            _child: child,
        }),
        _ => Err(config("has no pipes".to_owned())),
    }
}

/// The tokens of ssh_config. What they stand for may come from elsewhere than
/// the file, and a shell reads it: only names without meaning to it pass.
fn expand(computer: &ComputerSettings, command: &str) -> Result<String, String> {
    let plain = |text: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_:@%+".contains(c);
        match !text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain) {
            true => Ok(text.to_owned()),
            false => Err(format!(
                "would be given {text:?}, which a shell may misread; use another name"
            )),
        }
    };
    let mut line = String::new();
    let mut rest = command.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            line.push(c);
            continue;
        }
        let value = match rest.next() {
            Some('%') => "%".to_owned(),
            Some('h') => plain(&computer.host)?,
            Some('n') => plain(&computer.alias)?,
            Some('r') => plain(&computer.user)?,
            Some('p') => computer.port.to_string(),
            Some(other) => {
                return Err(format!(
                    "has the token %{other}, which is not supported; use %h, %p, %r, %n"
                ));
            }
            None => return Err("ends with a single %; write %%".to_owned()),
        };
        line.push_str(&value);
    }
    Ok(line)
}

impl SshLink {
    /// The computer, as faults name it.
    pub fn title(&self) -> &str {
        &self.shared.title
    }

    /// Asks the computer whether it is there. A link on which it does not answer
    /// within `limit` is taken down.
    ///
    /// # Errors
    /// The fault that the link ended with.
    pub async fn ping(&self, limit: Duration) -> Result<(), SshFault> {
        let down = &self.shared.down;
        let asked = tokio::select! {
            biased;
            ending = down.wait() => return Err(ending.fault),
            asked = timeout(limit, self.shared.handle.send_ping()) => asked,
        };
        match asked {
            // The library takes the end of the session for an answer, too.
            Ok(Ok(())) if !self.shared.handle.is_closed() => Ok(()),
            Ok(_) => match down.soon().await {
                Some(ending) => Err(ending.fault),
                None => Err(self.give_up("the session ended")),
            },
            Err(_) => Err(self.give_up(&format!(
                "it did not answer within {} ms",
                limit.as_millis()
            ))),
        }
    }

    /// Waits for the link's end, and tells its cause: whatever it was, and as
    /// often as it is asked for.
    pub fn closed(&self) -> impl Future<Output = SshFault> + Send + 'static {
        let down = self.shared.down.clone();
        async move { down.wait().await.fault }
    }

    /// Ends the link at once, whoever still holds it.
    pub fn cut(&self, why: &str) {
        self.give_up(why);
    }

    /// Ends the link in good manners. Comes back when nothing is left of it, in
    /// about a second at the latest.
    pub async fn close(self) {
        let down = self.shared.down.clone();
        down.tell(lost(&self.shared.title, "it was closed here"), None);
        let goodbye = self
            .shared
            .handle
            .disconnect(Disconnect::ByApplication, "", "en");
        if let Ok(Ok(())) = timeout(FAREWELL, goodbye).await {
            // The session ends by itself once this is written.
            let _ = timeout(FAREWELL, down.gone()).await;
        }
        self.cut.cancel();
        let _ = timeout(FAREWELL, down.gone()).await;
    }

    pub(super) fn down(&self) -> &Down {
        &self.shared.down
    }

    fn give_up(&self, said: &str) -> SshFault {
        self.shared.down.tell(lost(&self.shared.title, said), None);
        self.cut.cancel();
        let fault = self.shared.down.fault();
        fault.unwrap_or_else(|| lost(&self.shared.title, said))
    }

    /// A stream through this computer to another one.
    async fn tunnel(
        &self,
        to: &ComputerSettings,
        limit: Duration,
    ) -> Result<ChannelStream<Msg>, SshFault> {
        let open = self.shared.handle.channel_open_direct_tcpip(
            to.host.clone(),
            u32::from(to.port),
            "127.0.0.1",
            0,
        );
        let via = &self.shared.title;
        let (kind, message) = match timeout(limit, open).await {
            Ok(Ok(channel)) => return Ok(channel.into_stream()),
            Ok(Err(russh::Error::ChannelOpenFailure(reason))) => (
                SshFaultKind::Unreachable,
                format!(
                    "the jump host {via} did not connect to {}: {}; check that it is up and reachable from there, and AllowTcpForwarding",
                    to.title(),
                    channel::refusal(&reason)
                ),
            ),
            Ok(Err(error)) => match self.shared.down.soon().await {
                Some(ending) => return Err(through(&to.title(), &ending.fault)),
                None => (
                    SshFaultKind::Lost,
                    format!(
                        "the jump host {via} was lost on the way to {}: {error}",
                        to.title()
                    ),
                ),
            },
            Err(_) => (
                SshFaultKind::Timeout,
                format!(
                    "the jump host {via} did not connect to {} within {} ms; check that it is up and reachable from there",
                    to.title(),
                    limit.as_millis()
                ),
            ),
        };
        Err(SshFault::new(kind, message))
    }
}

impl Drop for SshLink {
    fn drop(&mut self) {
        let fault = lost(&self.shared.title, "it was dropped here");
        self.shared.down.tell(fault, None);
    }
}

impl std::fmt::Debug for SshLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SshLink").field(&self.shared.title).finish()
    }
}

impl Link for SshLink {
    fn computer(&self) -> &str {
        self.title()
    }

    fn exec(
        &self,
        command: String,
        input: Vec<u8>,
    ) -> BoxFuture<'static, Result<ExecDone, LinkError>> {
        detached(self.shared.clone(), |shared, given_up| {
            shared.exec(command, input, given_up)
        })
    }

    fn files(&self) -> BoxFuture<'static, Result<Arc<SftpSession>, LinkError>> {
        detached(self.shared.clone(), |shared, _given_up| {
            shared.files(|shared| &shared.sftp)
        })
    }

    fn tool_files(&self) -> BoxFuture<'static, Result<Arc<SftpSession>, LinkError>> {
        detached(self.shared.clone(), |shared, _given_up| {
            shared.files(|shared| &shared.tool_sftp)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_commands_tokens_are_expanded_and_nothing_reaches_its_shell_unread() {
        let mut computer = ComputerSettings::new("web", "me");
        computer.host = "10.0.0.1".to_owned();
        computer.port = 2222;
        let line = expand(&computer, "nc -X 5 %h %p # %r %n 100%%");
        assert_eq!(line.unwrap(), "nc -X 5 10.0.0.1 2222 # me web 100%");
        assert!(expand(&computer, "nc %C").unwrap_err().contains("%C"));
        assert!(expand(&computer, "nc %").is_err());
        for host in ["a;id", "$(id)", "a b", "-oX", "", "`id`", "a'"] {
            computer.host = host.to_owned();
            assert!(expand(&computer, "nc %h").is_err(), "{host}");
            assert!(expand(&computer, "nc x").is_ok(), "{host}");
        }
    }
}
