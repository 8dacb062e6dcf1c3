//! What the disk and the database do at all.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

const SPAN: Duration = Duration::from_secs(3);

/// Appends of 4 KiB, each made durable.
pub(crate) fn fsyncs_a_second(dir: &Path) -> f64 {
    let mut file = std::fs::File::create(dir.join("raw")).unwrap();
    let (since, mut n) = (Instant::now(), 0);
    while since.elapsed() < SPAN {
        file.write_all(&[7; 4_096]).unwrap();
        file.sync_data().unwrap();
        n += 1;
    }
    f64::from(n) / since.elapsed().as_secs_f64()
}

/// Transactions of one small row, on so many connections.
pub(crate) async fn inserts_a_second(url: &str, connections: usize) -> f64 {
    let connect = || async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let first = connect().await;
    let table = "CREATE TABLE raw (n bigserial PRIMARY KEY, text text NOT NULL)";
    first.batch_execute(table).await.unwrap();
    let mut clients = vec![first];
    while clients.len() < connections {
        clients.push(connect().await);
    }
    let since = Instant::now();
    let inserting = clients.into_iter().map(|client| {
        tokio::spawn(async move {
            let insert = "INSERT INTO raw (text) VALUES ($1)";
            let insert = client.prepare(insert).await.unwrap();
            let text = "a row of a hundred bytes or so ".repeat(3);
            let mut n = 0;
            while since.elapsed() < SPAN {
                client.execute(&insert, &[&text]).await.unwrap();
                n += 1;
            }
            n
        })
    });
    let mut n = 0;
    for inserted in inserting.collect::<Vec<_>>() {
        n += inserted.await.unwrap();
    }
    f64::from(n) / since.elapsed().as_secs_f64()
}
