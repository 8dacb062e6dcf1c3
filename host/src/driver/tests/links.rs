//! What is told over links to other computers.

use super::*;
use crate::driver::effects::forward_tool;
use crate::exec::ToolEvent;

#[tokio::test]
async fn l7_a_call_of_which_nothing_can_be_told_is_given_up_at_once_and_by_no_answer() {
    let (urgent, mut told) = mpsc::unbounded_channel();
    let (bytes, _) = mpsc::channel(1);
    let lanes = Lanes { urgent, bytes };
    let (events_in, events) = mpsc::channel(1);
    let cause = "no file transfer";
    let unknown = ToolEvent::Unknown {
        cause: cause.to_owned(),
    };
    events_in.send(unknown).await.unwrap();
    // The silence after a lost link would be waited for much longer.
    let forwarding = forward_tool(id(0, 7), events, lanes, Duration::from_secs(3_600));
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, forwarding).await.unwrap();
    match told.try_recv() {
        Ok(Urgent::Input(Input::ToolLost {
            id: of,
            cause: told,
        })) => {
            assert_eq!((of, told.as_str()), (id(0, 7), cause));
        }
        _ => panic!("nothing is told of it"),
    }
}
