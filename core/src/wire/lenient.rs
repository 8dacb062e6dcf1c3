//! JSON values that vendors write in more than one shape. Nothing here fails
//! on a value of an unexpected type: it reads as absent. Only broken JSON, and
//! JSON nested deeper than serde_json's limit in a place that is read, fails.

use alloc::{
    borrow::Cow,
    string::{String, ToString},
    vec::Vec,
};
use core::{fmt, marker::PhantomData};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// Visitor methods that read a value of the named kinds as absent.
macro_rules! absent {
    ($($kind:ident)*) => { $(absent!(@ $kind);)* };
    (@ number) => {
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> { Ok(Default::default()) }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> { Ok(Default::default()) }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> { Ok(Default::default()) }
    };
    (@ string) => {
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> { Ok(Default::default()) }
    };
    (@ literal) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> { Ok(Default::default()) }
        fn visit_unit<E>(self) -> Result<Self::Value, E> { Ok(Default::default()) }
    };
    (@ map) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
            Ok(Default::default())
        }
    };
    (@ seq) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
            Ok(Default::default())
        }
    };
}
pub(crate) use absent;

/// Declares a struct that is read from a JSON object: unknown keys are passed
/// over, of a repeated key the last one counts, an array stands for its first
/// element, anything else for an empty object.
macro_rules! lenient_object {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $ty:ty = $key:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub(crate) struct $name<'a> {
            $(pub(crate) $field: $ty,)*
            pub(crate) borrows: core::marker::PhantomData<&'a ()>,
        }

        const _: () = {
            use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

            #[allow(non_camel_case_types)]
            enum Key { $($field,)* Unknown }

            impl<'de> Deserialize<'de> for Key {
                fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                    struct KeyVisitor;
                    impl Visitor<'_> for KeyVisitor {
                        type Value = Key;
                        fn expecting(&self, to: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                            to.write_str("a key")
                        }
                        fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                            Ok(match key { $($key => Key::$field,)* _ => Key::Unknown })
                        }
                    }
                    from.deserialize_identifier(KeyVisitor)
                }
            }

            struct ObjectVisitor<'a>(core::marker::PhantomData<&'a ()>);

            impl<'de: 'a, 'a> Visitor<'de> for ObjectVisitor<'a> {
                type Value = $name<'a>;
                fn expecting(&self, to: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                    to.write_str("an object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                    let mut object = $name::default();
                    while let Some(key) = map.next_key::<Key>()? {
                        match key {
                            $(Key::$field => object.$field = map.next_value()?,)*
                            Key::Unknown => { map.next_value::<IgnoredAny>()?; }
                        }
                    }
                    Ok(object)
                }
                fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                    let first = seq.next_element::<$name<'a>>()?.unwrap_or_default();
                    while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                    Ok(first)
                }
                $crate::wire::lenient::absent! { number string literal }
            }

            impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
                fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                    from.deserialize_any(ObjectVisitor(core::marker::PhantomData))
                }
            }
        };
    };
}
pub(crate) use lenient_object;

macro_rules! lenient_value {
    ($name:ident, $visitor:ident) => {
        impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any($visitor(PhantomData))
            }
        }
    };
}

lenient_object! {
    /// An element of a message's content or reasoning that is an array.
    Part {
        kind: Text<'a> = "type",
        text: Text<'a> = "text",
        thinking: Text<'a> = "thinking",
        summary: Text<'a> = "summary",
    }
}

/// Text, however it is written: a string, a number, parts to be joined.
#[derive(Debug, Default)]
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

struct TextVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for TextVisitor<'a> {
    type Value = Text<'a>;
    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("text")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'a>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Text<'a>, E> {
        Ok(Text(Cow::Owned(String::from(text))))
    }
    fn visit_i64<E>(self, number: i64) -> Result<Text<'a>, E> {
        Ok(Text(Cow::Owned(number.to_string())))
    }
    fn visit_u64<E>(self, number: u64) -> Result<Text<'a>, E> {
        Ok(Text(Cow::Owned(number.to_string())))
    }
    fn visit_f64<E>(self, number: f64) -> Result<Text<'a>, E> {
        Ok(Text(Cow::Owned(number.to_string())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text<'a>, A::Error> {
        let mut joined = Cow::Borrowed("");
        while let Some(Text(piece)) = seq.next_element()? {
            join(&mut joined, piece);
        }
        Ok(Text(joined))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Text<'a>, A::Error> {
        let part = Part::deserialize(MapAccessDeserializer::new(map))?;
        let mut joined = part.text.0;
        join(&mut joined, part.summary.0);
        join(&mut joined, part.thinking.0);
        Ok(Text(joined))
    }
    absent! { literal }
}
lenient_value!(Text, TextVisitor);

/// A message's content: a string, or an array of parts some of which are
/// reasoning.
#[derive(Debug, Default)]
pub(crate) struct Content<'a> {
    pub(crate) text: Cow<'a, str>,
    pub(crate) reasoning: Cow<'a, str>,
}

struct ContentVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for ContentVisitor<'a> {
    type Value = Content<'a>;
    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("content")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Content<'a>, E> {
        Ok(plain(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Content<'a>, E> {
        Ok(plain(Cow::Owned(String::from(text))))
    }
    fn visit_i64<E>(self, number: i64) -> Result<Content<'a>, E> {
        Ok(plain(Cow::Owned(number.to_string())))
    }
    fn visit_u64<E>(self, number: u64) -> Result<Content<'a>, E> {
        Ok(plain(Cow::Owned(number.to_string())))
    }
    fn visit_f64<E>(self, number: f64) -> Result<Content<'a>, E> {
        Ok(plain(Cow::Owned(number.to_string())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content<'a>, A::Error> {
        let mut joined = Content::default();
        while let Some(Content { text, reasoning }) = seq.next_element()? {
            join(&mut joined.text, text);
            join(&mut joined.reasoning, reasoning);
        }
        Ok(joined)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Content<'a>, A::Error> {
        let part = Part::deserialize(MapAccessDeserializer::new(map))?;
        let kind = part.kind.0;
        let mut content = Content {
            text: part.text.0,
            reasoning: part.thinking.0,
        };
        if kind.starts_with("thinking") || kind.starts_with("reasoning") {
            let text = core::mem::take(&mut content.text);
            join(&mut content.reasoning, text);
            join(&mut content.reasoning, part.summary.0);
        }
        Ok(content)
    }
    absent! { literal }
}
lenient_value!(Content, ContentVisitor);

fn plain(text: Cow<'_, str>) -> Content<'_> {
    Content {
        text,
        reasoning: Cow::default(),
    }
}

/// A tool call's arguments: JSON text, or the object itself, which is written
/// back as JSON text.
#[derive(Debug, Default)]
pub(crate) struct Args<'a>(pub(crate) Cow<'a, str>);

struct ArgsVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for ArgsVisitor<'a> {
    type Value = Args<'a>;
    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("arguments")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Args<'a>, E> {
        Ok(Args(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Args<'a>, E> {
        Ok(Args(Cow::Owned(String::from(text))))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Args<'a>, A::Error> {
        let object = serde_json::Value::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Args(Cow::Owned(object.to_string())))
    }
    absent! { number literal seq }
}
lenient_value!(Args, ArgsVisitor);

/// A count or an index: a number, or a string that holds one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count(pub(crate) Option<u64>);

struct CountVisitor;

impl<'de> Visitor<'de> for CountVisitor {
    type Value = Count;
    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a count")
    }
    fn visit_u64<E>(self, number: u64) -> Result<Count, E> {
        Ok(Count(Some(number)))
    }
    fn visit_i64<E>(self, number: i64) -> Result<Count, E> {
        Ok(Count(u64::try_from(number).ok()))
    }
    fn visit_f64<E>(self, number: f64) -> Result<Count, E> {
        // The cast saturates and turns NaN into 0: no input can harm.
        Ok(Count(Some(number as u64)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Count, E> {
        Ok(Count(text.trim().parse().ok()))
    }
    absent! { literal map seq }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(CountVisitor)
    }
}

/// An array of objects; a single object counts as an array of one.
#[derive(Debug)]
pub(crate) struct Several<T>(pub(crate) Vec<T>);

impl<T> Default for Several<T> {
    fn default() -> Self {
        Several(Vec::new())
    }
}

struct SeveralVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for SeveralVisitor<T> {
    type Value = Several<T>;
    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an array of objects")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Several<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = seq.next_element()? {
            all.push(one);
        }
        Ok(Several(all))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Several<T>, A::Error> {
        let one = T::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Several(Vec::from([one])))
    }
    absent! { number string literal }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Several<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(SeveralVisitor(PhantomData))
    }
}

fn join<'a>(joined: &mut Cow<'a, str>, piece: Cow<'a, str>) {
    if joined.is_empty() {
        *joined = piece;
    } else if !piece.is_empty() {
        joined.to_mut().push_str(&piece);
    }
}
