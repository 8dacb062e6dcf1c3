//! The stage: a provider and a server in a directory of their own, and what
//! is known of the turns that were played on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::DemoError;
use super::child::{Process, TempDir};
use super::plan::{LIMIT, Plan, Planned, SCHEDULE_S};
use super::view::View;
use crate::client::{Client, ClientError};

/// A turn that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Played {
    pub(super) planned: Planned,
    pub(super) conversation: String,
    pub(super) turn: String,
    pub(super) view: View,
    /// What its log says, read again after the end: events of this turn.
    pub(super) log: Vec<Value>,
}

/// What follows a turn tells whoever shows it.
#[derive(Debug)]
pub(super) enum News<'a> {
    /// An event, and the text that it adds to the screen.
    Event(&'a Value, Option<String>),
    /// The connection broke.
    Lost,
    /// It stands again, and goes on after this logged event.
    Back(u64),
}

/// Both processes and their directory.
#[derive(Debug)]
pub(super) struct Stage {
    // Fields are dropped in this order: processes before their directory.
    server: Option<Process>,
    provider: Option<Process>,
    plant: Option<String>,
    pub(super) played: Vec<Played>,
    dir: TempDir,
}

/// No turn of the demo lasts longer.
const TURN: Duration = Duration::from_secs(15);
/// Between two attempts to reach a server that restarts.
const AGAIN: Duration = Duration::from_millis(25);

impl Stage {
    pub(super) fn new(plant: Option<String>) -> Result<Stage, DemoError> {
        Ok(Stage {
            server: None,
            provider: None,
            plant,
            played: Vec::new(),
            dir: TempDir::new()?,
        })
    }

    /// Starts the provider, then the server that uses it.
    pub(super) async fn open(&mut self, plan: &Plan) -> Result<(), DemoError> {
        fs::create_dir(self.data_dir()).map_err(self.unwritable())?;
        fs::create_dir(self.scratch()).map_err(self.unwritable())?;
        let script = self.dir.path().join("script.json");
        fs::write(&script, plan.script.to_string()).map_err(self.unwritable())?;
        fs::write(self.scratch().join("notes.txt"), &plan.notes).map_err(self.unwritable())?;
        let script = script.to_string_lossy().into_owned();
        let args = ["--listen", "127.0.0.1:0", "--script", &script];
        let provider = Process::start("provider", &args, self.dir.path(), &[]).await?;
        fs::write(self.config(), config(&provider.address)).map_err(self.unwritable())?;
        self.provider = Some(provider);
        self.start_server("127.0.0.1:0").await
    }

    async fn start_server(&mut self, listen: &str) -> Result<(), DemoError> {
        let data_dir = self.data_dir().to_string_lossy().into_owned();
        let config = self.config().to_string_lossy().into_owned();
        let args = [
            "--listen",
            listen,
            "--data-dir",
            &data_dir,
            "--config",
            &config,
        ];
        let plant = self.plant.as_deref().map(|id| (super::PLANT_VARIABLE, id));
        let env: Vec<(&str, &str)> = plant
            .into_iter()
            .chain([("DISPATCH_LOG", "warn")])
            .collect();
        self.server = Some(Process::start("serve", &args, self.dir.path(), &env).await?);
        Ok(())
    }

    /// `kill -9` of the server. Answers its process id.
    pub(super) async fn kill_server(&mut self) -> Result<u32, DemoError> {
        let server = self.server.as_mut().ok_or(DemoError::NotOpen)?;
        let pid = server.pid().unwrap_or_default();
        server.kill().await?;
        Ok(pid)
    }

    /// Starts it again, on the same directory and address.
    pub(super) async fn restart_server(&mut self) -> Result<(), DemoError> {
        let server = self.server.take().ok_or(DemoError::NotOpen)?;
        let listen = server.address.trim_start_matches("http://").to_owned();
        drop(server);
        self.start_server(&listen).await
    }

    pub(super) fn server(&self) -> Result<Client, DemoError> {
        let server = self.server.as_ref().ok_or(DemoError::NotOpen)?;
        Ok(Client::new(&server.address))
    }

    pub(super) fn provider(&self) -> Result<Client, DemoError> {
        let provider = self.provider.as_ref().ok_or(DemoError::NotOpen)?;
        Ok(Client::new(&provider.address))
    }

    /// Where the tools of the demo work.
    pub(super) fn scratch(&self) -> PathBuf {
        self.dir.path().join("scratch")
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("dispatch.toml")
    }

    fn unwritable(&self) -> impl Fn(std::io::Error) -> DemoError + use<> {
        let path = self.dir.path().to_owned();
        move |source| DemoError::Directory {
            path: path.clone(),
            source,
        }
    }

    /// Reads every turn's log again, from the beginning of its conversation.
    pub(super) async fn read_logs(&mut self) -> Result<(), DemoError> {
        let client = self.server()?;
        let mut logs: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for played in &mut self.played {
            if !logs.contains_key(&played.conversation) {
                let log = whole_log(&client, &played.conversation).await?;
                logs.insert(played.conversation.clone(), log);
            }
            played.log = logs[&played.conversation]
                .iter()
                .filter(|event| event["turnId"] == played.turn.as_str())
                .cloned()
                .collect();
        }
        Ok(())
    }

    /// Ends both processes; the directory goes with the stage.
    pub(super) async fn close(&mut self) {
        for process in [self.server.take(), self.provider.take()]
            .into_iter()
            .flatten()
        {
            process.stop().await;
        }
    }
}

fn config(provider: &str) -> String {
    let schedule = SCHEDULE_S.map(|s| s.to_string()).join(", ");
    format!(
        "[server]\n\
         drain_s = 1\n\
         \n\
         [providers.demo]\n\
         dialect = \"chat\"\n\
         base_url = \"{provider}/v1\"\n\
         limit = {LIMIT}\n\
         models = [\"scripted\"]\n\
         \n\
         [retry]\n\
         schedule_s = [{schedule}]\n\
         budget_s = 60\n"
    )
}

/// Submits a message; the answer comes once the turn is durable.
pub(super) async fn submit(
    client: &Client,
    planned: &Planned,
    cwd: Option<&str>,
) -> Result<Played, ClientError> {
    let mut body = json!({"message": planned.message, "detach": true});
    if let Some(workspace) = planned.workspace {
        body["workspaceId"] = json!(workspace);
    }
    if let Some(cwd) = cwd {
        body["cwd"] = json!(cwd);
    }
    let receipt = client.post("/chat", &body).await?;
    let named = |key: &str| match receipt[key].as_str() {
        Some(value) => Ok(value.to_owned()),
        None => Err(ClientError::Lost {
            what: "POST /chat".to_owned(),
            reason: format!("its receipt has no {key}: {receipt}"),
        }),
    };
    Ok(Played {
        planned: planned.clone(),
        conversation: named("conversationId")?,
        turn: named("turnId")?,
        view: View::default(),
        log: Vec::new(),
    })
}

/// Follows a turn to its terminal event, whatever happens to the connection.
/// A turn that does not end in time is left as it is: the checks will say so.
pub(super) async fn follow(client: &Client, played: &mut Played, mut tell: impl FnMut(News<'_>)) {
    let (conversation, turn) = (played.conversation.clone(), played.turn.clone());
    let view = &mut played.view;
    let following = async {
        let mut is_lost = false;
        while !view.ended {
            let opened = client.events(&conversation, Some(&turn), view.cursor).await;
            let mut events = match opened {
                Ok(Some(events)) => events,
                Ok(None) => return,
                Err(ClientError::Refused { .. }) if !is_lost => return,
                Err(_) => {
                    if !std::mem::replace(&mut is_lost, true) {
                        tell(News::Lost);
                    }
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            if std::mem::take(&mut is_lost) {
                view.reconnects += 1;
                tell(News::Back(view.cursor));
            }
            // An end without a terminal event is a cut like any other.
            while let Ok(Some(event)) = events.next().await {
                if event["turnId"] == turn.as_str() {
                    let text = view.take(&event);
                    tell(News::Event(&event, text));
                }
            }
            if !view.ended {
                is_lost = true;
                tell(News::Lost);
            }
        }
    };
    // The checks find out what is missing.
    let _ = tokio::time::timeout(TURN, following).await;
}

/// The logged events of a conversation.
async fn whole_log(client: &Client, conversation: &str) -> Result<Vec<Value>, DemoError> {
    let mut log = Vec::new();
    let reading = async {
        let Some(mut events) = client.events(conversation, None, 0).await? else {
            return Ok::<(), ClientError>(());
        };
        while let Some(event) = events.next().await? {
            if event["type"] == "synced" {
                break;
            }
            if event["seq"].is_u64() {
                log.push(event);
            }
        }
        Ok(())
    };
    match tokio::time::timeout(TURN, reading).await {
        Ok(read) => read?,
        Err(_) => return Err(DemoError::Late("the log of a conversation".to_owned())),
    }
    Ok(log)
}

/// Waits until `is_so` answers true, asking again and again.
pub(super) async fn until<F>(what: &str, mut is_so: impl FnMut() -> F) -> Result<(), DemoError>
where
    F: Future<Output = Result<bool, ClientError>>,
{
    let deadline = Instant::now() + TURN;
    while !is_so().await? {
        if Instant::now() > deadline {
            return Err(DemoError::Late(what.to_owned()));
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}
