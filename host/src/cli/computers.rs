//! `dispatch computers`: which computers tools could run on, how each is
//! reached, and whether it can be (S2).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{CONFIGURATION, FAILED, UNREACHABLE, fail};
use crate::client::{self, Client};
use crate::config::{Reach, Sources};
use crate::data_dir;
use crate::net::TokioNet;
use crate::ssh::{
    AgentSocket, ComputerSettings, HostKeys, Link, LinkError, Route, SshFault, SshFaultKind,
    SshLink, reach,
};

#[derive(Debug, Args)]
pub(super) struct ComputersArgs {
    #[command(subcommand)]
    verb: Option<ComputersVerb>,
    /// Ask this server how they stand; left out: the data directory's, if one runs
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Holds the configuration and the pinned host keys [default: ~/.local/state/dispatch]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The configuration [default: dispatch.toml in the data directory]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum ComputersVerb {
    /// Connect to one now, as a server would, and see that tools could run there
    Test {
        /// Its name in the SSH configuration
        alias: String,
    },
    /// Show how one is reached: host, port, user, keys, jump hosts
    Show {
        /// Its name in the SSH configuration
        alias: String,
    },
}

/// Exit codes: 0 done, 1 there is no such computer or it cannot be reached, 3
/// configuration, 4 the named server is not reachable.
pub(super) async fn run(args: ComputersArgs) -> ExitCode {
    let reach = Reach::load(&Sources {
        file: args.config,
        data_dir: args.data_dir,
        listen: None,
        env: Sources::env(),
    });
    let reach = match reach {
        Ok(reach) => reach,
        Err(error) => return fail(CONFIGURATION, &error.to_string()),
    };
    let outcome = match args.verb {
        None => return list(&reach, args.server).await,
        Some(ComputersVerb::Test { alias }) => test(&reach, &alias).await,
        Some(ComputersVerb::Show { alias }) => show(&reach, &alias).await,
    };
    match outcome {
        Ok(said) => {
            print(&said);
            ExitCode::SUCCESS
        }
        Err(fault) => fail(FAILED, &format!("{fault} [{}]", fault.kind.code())),
    }
}

fn print(text: &str) {
    // Whoever reads may have seen enough.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// One line of the list.
struct Row {
    alias: String,
    host: String,
    source: String,
    state: String,
    error: Option<String>,
}

async fn list(reach: &Reach, server: Option<String>) -> ExitCode {
    let told = match told(&reach.data_dir, server.as_deref()).await {
        Ok(told) => told,
        Err(error) => return fail(UNREACHABLE, &error),
    };
    let rows = told.unwrap_or_else(|| found(reach));
    if rows.is_empty() {
        print(
            "no computer is known: they are the Host lines of ~/.ssh/config and the names in ~/.ssh/known_hosts",
        );
        return ExitCode::SUCCESS;
    }
    print(&table(&rows));
    ExitCode::SUCCESS
}

/// What a server says of its computers; nothing where none runs. One that was
/// named has to answer.
async fn told(data_dir: &Path, named: Option<&str>) -> Result<Option<Vec<Row>>, String> {
    let base = match named {
        Some(server) => client::named(server)?,
        None => match client::address(data_dir) {
            Some(base) => base,
            None => return Ok(None),
        },
    };
    match Client::new(&base).with_own_token().get("/computers").await {
        Ok(answer) => {
            let computers = answer["computers"].as_array();
            Ok(Some(computers.into_iter().flatten().map(row).collect()))
        }
        Err(error) if named.is_some() => Err(format!(
            "no server tells its computers at {base}: {error}; name one with --server, or leave it out"
        )),
        Err(error) => {
            tracing::warn!("how they stand is not known, the server does not answer: {error}");
            Ok(None)
        }
    }
}

fn row(computer: &Value) -> Row {
    let text = |key: &str| computer[key].as_str().unwrap_or("-").to_owned();
    Row {
        alias: text("alias"),
        host: text("host"),
        source: text("source"),
        state: text("state"),
        error: computer["lastError"]["message"].as_str().map(str::to_owned),
    }
}

fn found(reach: &Reach) -> Vec<Row> {
    let computers = reach.known.list().into_iter();
    let rows = computers.map(|computer| Row {
        source: computer.source.name().to_owned(),
        alias: computer.alias,
        host: computer.host,
        state: "-".to_owned(),
        error: None,
    });
    rows.collect()
}

fn table(rows: &[Row]) -> String {
    let widest = |of: fn(&Row) -> &String| {
        let widths = rows.iter().map(|row| of(row).chars().count());
        widths.max().unwrap_or(0)
    };
    let (alias, host) = (widest(|row| &row.alias), widest(|row| &row.host));
    let mut text = String::new();
    for row in rows {
        text.push_str(&format!(
            "{:alias$}  {:host$}  {:11}  {}\n",
            row.alias, row.host, row.source, row.state
        ));
        if let Some(error) = &row.error {
            text.push_str(&format!("{:alias$}  last error: {error}\n", ""));
        }
    }
    text
}

/// Logs in, and tries what tools need: a command, and file transfer.
async fn test(reach: &Reach, alias: &str) -> Result<String, SshFault> {
    let begun = Instant::now();
    let trying = async {
        let link = connected(reach, alias).await?;
        let works = works(&link).await;
        let title = link.title().to_owned();
        link.close().await;
        works.map(|()| title)
    };
    let title = match tokio::time::timeout(reach.test, trying).await {
        Ok(tried) => tried?,
        Err(_) => return Err(silent(reach, alias)),
    };
    Ok(format!("{title}: OK, {} ms", begun.elapsed().as_millis()))
}

fn silent(reach: &Reach, alias: &str) -> SshFault {
    SshFault::new(
        SshFaultKind::Timeout,
        format!(
            "{alias} has not shown within {} ms that tools could run there; see that it is up and not overloaded, or raise ssh.test_ms",
            reach.test.as_millis()
        ),
    )
}

async fn connected(reach_of: &Reach, alias: &str) -> Result<SshLink, SshFault> {
    // Keys of new hosts are pinned in it.
    data_dir::make(&reach_of.data_dir)
        .map_err(|error| SshFault::new(SshFaultKind::Config, error.to_string()))?;
    let keys = HostKeys::new(&reach_of.data_dir);
    reach(alias, &TokioNet, &reach_of.known, &keys, reach_of.limits).await
}

async fn works(link: &SshLink) -> Result<(), SshFault> {
    let fault = |error: LinkError| match error.fault() {
        Some(fault) => fault.clone(),
        None => SshFault::new(SshFaultKind::Config, error.to_string()),
    };
    let said = link.exec("exec sh -c 'echo dispatch'".to_owned(), Vec::new());
    let said = String::from_utf8_lossy(&said.await.map_err(fault)?.output).into_owned();
    if !said.lines().any(|line| line == "dispatch") {
        let computer = link.title().to_owned();
        return Err(fault(LinkError::NoExec { computer }));
    }
    link.files().await.map_err(fault)?;
    Ok(())
}

async fn show(reach: &Reach, alias: &str) -> Result<String, SshFault> {
    let settings = reach.known.resolve(alias).await?;
    let mut lines = vec![
        ("alias", settings.alias.clone()),
        ("host", settings.host.clone()),
        ("port", settings.port.to_string()),
        ("user", settings.user.clone()),
    ];
    for key in &settings.identity_files {
        let there = if key.exists() { "" } else { " (not there)" };
        lines.push(("key", format!("{}{there}", key.display())));
    }
    lines.push((
        "agent",
        match &settings.agent {
            AgentSocket::None => "none".to_owned(),
            AgentSocket::At(socket) if settings.identities_only => {
                format!("{}, for these keys only", socket.display())
            }
            AgentSocket::At(socket) => socket.display().to_string(),
        },
    ));
    let pinned = HostKeys::new(&reach.data_dir).path().to_owned();
    for file in settings.known_hosts.iter().chain([&pinned]) {
        lines.push(("known hosts", file.display().to_string()));
    }
    if let Some(name) = &settings.host_key_alias {
        lines.push(("host key of", name.clone()));
    }
    lines.push(("way", way(&settings.route)));
    let lines = lines
        .iter()
        .map(|(name, value)| format!("{name:12} {value}\n"));
    Ok(lines.collect())
}

/// A proxy command may carry a password: only its program is shown.
fn way(route: &Route) -> String {
    let hop = |hop: &ComputerSettings| format!("{}@{}", hop.user, hop.title());
    match route {
        Route::Direct => "direct".to_owned(),
        Route::Jump(hops) => {
            let hops: Vec<String> = hops.iter().map(hop).collect();
            format!("through {}", hops.join(", then "))
        }
        Route::Command { line, .. } => {
            let program = line.split_whitespace().next().unwrap_or_default();
            format!("over the proxy command `{program} ...`")
        }
    }
}
