//! Messages as a recipe lists them: without those that nobody sends. Delays and
//! luck go by a message's token, which is its place, so that places are kept.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

use super::Message;

/// More are no recipe but a mistake.
const MOST_MESSAGES: u32 = 10_000;

pub(super) fn serialize<S: Serializer>(all: &[Message], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(all.iter().filter(|message| !message.is_blank()))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Message>, D::Error> {
    let mut all: Vec<Message> = Vec::new();
    for message in Vec::<Message>::deserialize(from)? {
        let token = message.script.token;
        let after = u32::try_from(all.len()).unwrap_or(u32::MAX);
        let fault = match token {
            _ if message.is_blank() => format!("message {token} has a script without steps"),
            _ if token >= MOST_MESSAGES => format!("message {token} is beyond {MOST_MESSAGES}"),
            _ if token < after => format!("message {token} is twice there or out of order"),
            _ => {
                all.extend((after..token).map(Message::blank));
                all.push(message);
                continue;
            }
        };
        return Err(D::Error::custom(fault));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Script;

    fn message(token: u32) -> Message {
        Message {
            script: Script::of(1, token),
            ..Message::blank(token)
        }
    }

    fn read(messages: &[Message]) -> Result<Vec<Message>, serde_json::Error> {
        let listed: Vec<serde_json::Value> = messages
            .iter()
            .map(|message| serde_json::to_value(message).expect("a value"))
            .collect();
        deserialize(serde_json::Value::from(listed))
    }

    #[test]
    fn what_nobody_sends_is_left_out_and_the_others_keep_their_tokens() {
        let all = vec![message(0), Message::blank(1), Message::blank(2), message(3)];
        let text = serialize(&all, serde_json::value::Serializer).expect("a value");
        assert_eq!(text.as_array().map(Vec::len), Some(2));
        assert_eq!(deserialize(text).expect("readable"), all);
    }

    #[test]
    fn a_list_that_is_no_list_of_messages_is_refused() {
        assert!(read(&[message(1), message(2)]).is_ok());
        assert!(read(&[message(1), message(1)]).is_err());
        assert!(read(&[message(2), message(1)]).is_err());
        assert!(read(&[message(u32::MAX)]).is_err());
        assert!(read(&[Message::blank(0)]).is_err());
    }
}
