//! A driver that does not get on.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o7_a_driver_that_is_stuck_answers_no_census() {
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let rig = rig(None, move |_, input| {
        if *input == Input::Nudged {
            let _let_go = held.lock().unwrap().recv();
        }
    });
    assert_eq!(rig.handle.census().await, Some(Census::default()));
    rig.handle.nudged();
    let handle = rig.handle.clone();
    let census = handle.census();
    tokio::pin!(census);
    // Polled once, so that the question is on its way.
    assert_eq!(census.as_mut().now_or_never(), None);
    let_go.send(()).unwrap();
    assert_eq!(census.await, Some(Census::default()));
    rig.end().await;
}
