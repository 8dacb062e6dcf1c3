//! The PostgreSQL store by way of others: a pooler of transactions, and TLS.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use dispatch::store::{PostgresOptions, PostgresStore};
use dispatch_core::store::Reply;
use tokio_postgres::{Client, NoTls};

use super::crowd;
use super::harness::{Reached, START, Subject, difference};
use super::postgres::Postgres;
use super::support::postgres::{Cluster, shared};
use super::support::until_true;

/// pgbouncer before a database, in its mode `transaction`.
struct Pooler {
    process: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Pooler {
    /// `None`, loudly, where it is not installed and need not be.
    /// Its sessions serve in turns, or else whichever was used last.
    fn before(cluster: &Cluster, url: &str, in_turns: bool) -> Option<Pooler> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];
        let Some(program) = program
            .iter()
            .find(|path| std::path::Path::new(path).exists())
        else {
            let required = std::env::var("DISPATCH_REQUIRE").unwrap_or_default();
            assert!(
                !required.split(',').any(|name| name == "pgbouncer"),
                "DISPATCH_REQUIRE names pgbouncer, and it is not found: apt-get install pgbouncer"
            );
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: pgbouncer is not installed (apt-get install pgbouncer)"
            );
            return None;
        };
        let server = url
            .split('@')
            .nth(1)
            .and_then(|rest| rest.split('/').next());
        let server_port = server.and_then(|place| place.split(':').nth(1)).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let dir = tempfile::tempdir().unwrap();
        // Two sessions for a dozen clients: each transaction meets another one.
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server_port} user=postgres\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 2\n\
             server_round_robin = {}\nunix_socket_dir =\n",
            u8::from(in_turns)
        );
        std::fs::write(dir.path().join("pgbouncer.ini"), settings).unwrap();
        let mut command = Command::new(program);
        cluster.hand_over(&mut command, dir.path());
        command.arg(dir.path().join("pgbouncer.ini"));
        let quiet = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = quiet.spawn().unwrap();
        until_true("the pooler listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Some(Pooler { process, port, dir })
    }

    fn url(&self, url: &str) -> String {
        let database = url.rsplit('/').next().unwrap();
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = self.dir.path();
    }
}

#[test]
fn l9_behind_a_pooler_of_transactions_the_store_answers_what_the_model_does() {
    let Some(cluster) = shared() else { return };
    for seed in 400..402 {
        let url = cluster.database();
        let Some(pooler) = Pooler::before(cluster, &url, true) else {
            return;
        };
        let mut store = Postgres::at(&pooler.url(&url), PostgresOptions::default());
        let difference = difference(seed, 300, &mut store, &mut Reached::new());
        assert_eq!(difference, None);
    }
}

/// A statement's name is that of another one in another process: on a session
/// that both have used, nothing of the other's may be run.
#[test]
fn l9_behind_a_pooler_no_statement_of_another_process_is_run() {
    let Some(cluster) = shared() else { return };
    // The store's upkeep may use the other session before anybody else does.
    for _ in 0..20 {
        match names_are_lent(cluster) {
            Some(false) => {}
            Some(true) | None => return,
        }
    }
    panic!("the store never kept to one session");
}

/// `None` without a pooler; `false` where the store has noticed it before
/// another process could come between.
fn names_are_lent(cluster: &Cluster) -> Option<bool> {
    let url = cluster.database();
    let pooler = Pooler::before(cluster, &url, false)?;
    let mut store = Postgres::at(&pooler.url(&url), PostgresOptions::default());
    store.ask(START, &crowd::boot()).unwrap();
    let before = store.ask(START, &crowd::view());
    assert!(matches!(before, Ok(Reply::View(_))));
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    let clients: [Client; 2] = std::array::from_fn(|_| runtime.block_on(client(&pooler.url(&url))));
    let is_lent = runtime.block_on(async {
        // On the session that the store has used; nobody else gets it now.
        clients[0].batch_execute("BEGIN").await.unwrap();
        let names = "SELECT name FROM pg_prepared_statements WHERE name ~ '^s[0-9]+$'";
        let names = clients[0].query_typed(names, &[]).await.unwrap();
        // So this one is on the other session, which the store is given next.
        for name in names.iter().map(|row| row.get::<_, String>(0)) {
            let other = format!("PREPARE {name} (text) AS SELECT $1 WHERE false");
            if clients[1].batch_execute(&other).await.is_err() {
                return false;
            }
        }
        !names.is_empty()
    });
    assert_eq!(store.ask(START, &crowd::view()), before);
    runtime
        .block_on(clients[0].batch_execute("COMMIT"))
        .unwrap();
    Some(is_lent)
}

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[test]
fn o1_tls_is_spoken_where_it_is_demanded_or_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let Some(certified) = Certified::new(dir.path()) else {
        return;
    };
    let url = certified
        .cluster
        .database()
        .replace("127.0.0.1", "localhost");
    let url = |parameters: &str| url.replace("sslmode=disable", parameters);
    let trusted = format!("sslrootcert={}", certified.authority);
    let is_encrypted = || {
        const QUERY: &str = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
            WHERE application_name = 'dispatch'";
        certified.cluster.psql("postgres", QUERY).unwrap() == "t"
    };
    for mode in ["require", "verify-full", "prefer"] {
        let store = opened(&url(&format!("sslmode={mode}&{trusted}"))).unwrap();
        assert!(is_encrypted(), "{mode}");
        drop(store);
    }
    // Nobody vouches for it: neither encrypted to whomever, nor in clear text.
    for mode in ["require", "prefer"] {
        let told = opened(&url(&format!("sslmode={mode}"))).err().unwrap();
        assert!(told.contains("sslrootcert=/path"), "{mode}: {told}");
    }
}

#[test]
fn o1_a_server_without_tls_is_refused_where_tls_is_demanded() {
    let Some(cluster) = shared() else { return };
    let url = |parameters: &str| cluster.database().replace("sslmode=disable", parameters);
    let told = opened(&url("sslmode=require")).err().unwrap();
    assert!(
        told.contains("does not support TLS") && told.contains("ssl = on"),
        "{told}"
    );
    assert!(opened(&url("sslmode=prefer")).is_ok());
}

/// A store with its runtime, or what it says instead.
fn opened(url: &str) -> Result<(PostgresStore, tokio::runtime::Runtime), String> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    let opened = runtime.block_on(async {
        let store = PostgresStore::open(url, PostgresOptions::default()).await?;
        // One session at least stays open.
        dispatch::store::Store::providers(&store).await.ok();
        Ok::<_, dispatch::store::PostgresOpenError>(store)
    });
    opened
        .map(|store| (store, runtime))
        .map_err(|error| error.to_string())
}

/// A server with a certificate for `localhost`, of an authority that nobody knows.
struct Certified {
    cluster: Cluster,
    authority: String,
}

impl Certified {
    fn new(dir: &std::path::Path) -> Option<Certified> {
        const MAKE: &str = r#"set -e; cd "$1"
            ec="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
            openssl req -x509 $ec -keyout ca.key -out ca.pem -subj /CN=authority \
                -addext basicConstraints=critical,CA:TRUE
            openssl req $ec -keyout server.key -out server.csr -subj /CN=localhost
            echo subjectAltName=DNS:localhost >extensions
            openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                -extfile extensions -out server.pem"#;
        let made = Command::new("/bin/sh")
            .args(["-c", MAKE, "sh"])
            .arg(dir)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(
            made.status.success(),
            "openssl (a dependency of Debian's postgresql): {said}"
        );
        Cluster::hand_over_all(dir);
        let file = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let settings = [
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", file("server.pem")),
            format!("ssl_key_file={}", file("server.key")),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let cluster = Cluster::start(&settings)?;
        Some(Certified {
            cluster,
            authority: file("ca.pem"),
        })
    }
}
