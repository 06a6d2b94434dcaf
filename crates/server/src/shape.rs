//! Does this tree of JSON have the shape of that type, and where does it not?
//!
//! A serde deserializer over a tree whose errors are kinds and places, not sentences: which field is unknown, which is
//! missing, what stands where something else is wanted.

use crate::problem::{Code, Problem};
use serde::{
    de::{
        self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
        SeqAccess, Unexpected, VariantAccess, Visitor,
    },
    forward_to_deserialize_any,
};
use serde_json::Value;
use std::fmt;

/// Reads a type out of a tree.
///
/// # Errors
/// `unknown_field`, `unknown_input_type` where the tag of the whole is unknown, `schema_violation` for the rest; with a
/// pointer.
pub fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Problem> {
    T::deserialize(Node { value, text: false }).map_err(|fault| fault.problem(value))
}

/// Reads a type out of a tree whose leaves are all text: numbers and truth are parsed out of it.
///
/// # Errors
/// As for [`read`].
pub(crate) fn read_text<T: DeserializeOwned>(value: &Value) -> Result<T, Problem> {
    T::deserialize(Node { value, text: true }).map_err(|fault| fault.problem(value))
}

/// A part of a JSON pointer (RFC 6901). A key that is longer than any of ours is cut, so that no answer is longer than
/// its question.
pub(crate) fn escape(part: &str) -> String {
    let cut = part.char_indices().nth(KEY_SHOWN).map_or(part, |(end, _)| &part[..end]);
    cut.replace('~', "~0").replace('/', "~1")
}

/// A JSON pointer of these parts.
pub(crate) fn pointer<'p>(parts: impl Iterator<Item = &'p String>) -> String {
    parts.fold(String::new(), |pointer, part| pointer + "/" + &escape(part))
}

/// Characters of a key that are shown.
const KEY_SHOWN: usize = 100;

/// What does not fit, and where.
#[derive(Debug)]
struct Fault {
    kind: Kind,
    detail: String,
    /// From the inside out. Within a tagged union serde knows no places; then it is short or empty.
    path: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Field(String),
    Variant(String),
    Other,
}

impl Fault {
    fn other(detail: impl Into<String>) -> Fault {
        Fault { kind: Kind::Other, detail: detail.into(), path: Vec::new() }
    }

    fn at(mut self, part: impl Into<String>) -> Fault {
        self.path.push(part.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Fault {
        Fault::other(message.to_string())
    }

    // Without the value itself: it may be long, and its sender knows it.
    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Fault {
        Fault::other(format!("{} stands where {wanted} is wanted", kind_of(found)))
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Fault {
        Fault::other(format!("{} does not fit: {wanted} is wanted", kind_of(found)))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Fault {
        let known = if known.is_empty() { "none is taken".to_owned() } else { format!("known: {}", known.join(", ")) };
        Fault { kind: Kind::Field(field.to_owned()), ..Fault::other(format!("no such field; {known}")) }
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Fault {
        let detail = format!("one of these is wanted: {}", known.join(", "));
        Fault { kind: Kind::Variant(variant.to_owned()), ..Fault::other(detail) }
    }

    fn missing_field(field: &'static str) -> Fault {
        Fault::other(format!("the field {field} is missing")).at(field)
    }
}

impl Fault {
    fn problem(self, root: &Value) -> Problem {
        let told = pointer(self.path.iter().rev());
        let (code, pointer) = match &self.kind {
            Kind::Field(field) => {
                let place = place(root.pointer(&told).unwrap_or(root), &|key, _| key == field);
                (Code::UnknownField, told + &place.unwrap_or_else(|| format!("/{}", escape(field))))
            }
            // The one union that is tagged by `kind` is the input.
            Kind::Variant(variant) if told.is_empty() && root["kind"] == **variant => {
                (Code::UnknownInputType, "/kind".to_owned())
            }
            Kind::Variant(variant) if told.is_empty() => {
                let place = place(root, &|_, value| value == variant.as_str());
                (Code::SchemaViolation, place.unwrap_or_default())
            }
            Kind::Variant(_) | Kind::Other => (Code::SchemaViolation, told),
        };
        Problem::at(code, pointer, &self.detail)
    }
}

/// Where the first entry stands that looks like this.
fn place(value: &Value, looks: &dyn Fn(&str, &Value) -> bool) -> Option<String> {
    let down = |key: &str, value: &Value| {
        let here = format!("/{}", escape(key));
        if looks(key, value) { Some(here) } else { place(value, looks).map(|below| here + &below) }
    };
    match value {
        Value::Object(fields) => fields.iter().find_map(|(key, value)| down(key, value)),
        Value::Array(items) => items.iter().enumerate().find_map(|(at, value)| down(&at.to_string(), value)),
        _ => None,
    }
}

fn kind_of(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "an integer",
        Unexpected::Float(_) => "a number",
        Unexpected::Str(_) | Unexpected::Char(_) | Unexpected::Bytes(_) => "a string",
        Unexpected::Unit | Unexpected::Option => "null",
        Unexpected::Seq => "an array",
        Unexpected::Map => "an object",
        _ => "something else",
    }
}

/// One value of the tree.
#[derive(Clone, Copy)]
struct Node<'v> {
    value: &'v Value,
    /// Whether leaves are text to be parsed.
    text: bool,
}

macro_rules! scalars {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.value {
                Value::String(text) if self.text => {
                    let scalar = text.parse().map(Value::Number).or_else(|_| text.parse().map(Value::Bool));
                    let scalar = scalar.ok();
                    Node { value: scalar.as_ref().unwrap_or(self.value), text: false }.deserialize_any(visitor)
                }
                _ => self.deserialize_any(visitor),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (_, _, value) => visitor.visit_f64(value.unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::Array(items) => visitor.visit_seq(Items { items: items.iter().enumerate(), text: self.text }),
            Value::Object(fields) => visitor.visit_map(Fields { rest: fields.iter(), value: None, text: self.text }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            // A single parameter is an array of one.
            Value::String(_) if self.text => {
                let one = std::slice::from_ref(self.value).iter().enumerate();
                visitor.visit_seq(Items { items: one, text: true })
            }
            _ => self.deserialize_any(visitor),
        }
    }

    /// Serde would take an array for the fields in their order; the API never means that.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value {
            Value::Object(_) => self.deserialize_any(visitor),
            _ => Err(Fault::other("an object is wanted")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let (variant, value) = match self.value {
            Value::String(variant) => (variant, None),
            Value::Object(fields) if fields.len() == 1 => {
                let (variant, value) = fields.iter().next().expect("one was counted");
                (variant, Some(value))
            }
            _ => return Err(Fault::other("a string or an object with one key is wanted")),
        };
        visitor.visit_enum(Variant { name: variant, value, text: self.text })
    }

    scalars! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16
        deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'v> {
    items: std::iter::Enumerate<std::slice::Iter<'v, Value>>,
    text: bool,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((at, value)) = self.items.next() else { return Ok(None) };
        seed.deserialize(Node { value, text: self.text }).map(Some).map_err(|fault| fault.at(at.to_string()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Fields<'v> {
    rest: serde_json::map::Iter<'v>,
    value: Option<(&'v str, &'v Value)>,
    text: bool,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some((key, value));
        seed.deserialize(key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let (key, value) = self.value.take().expect("serde asks for a value after its key");
        seed.deserialize(Node { value, text: self.text }).map_err(|fault| fault.at(key))
    }
}

/// A variant of an enum that is tagged from outside: a string, or an object with one key.
struct Variant<'v> {
    name: &'v str,
    value: Option<&'v Value>,
    text: bool,
}

impl<'de, 'v> EnumAccess<'de> for Variant<'v> {
    type Error = Fault;
    type Variant = Variant<'v>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Variant<'v>), Fault> {
        let variant = seed.deserialize(self.name.into_deserializer())?;
        Ok((variant, self))
    }
}

impl<'v> Variant<'v> {
    fn content(&self) -> Result<Node<'v>, Fault> {
        match self.value {
            Some(value) => Ok(Node { value, text: self.text }),
            None => Err(Fault::other("an object with one key is wanted")),
        }
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.value {
            None => Ok(()),
            Some(_) => Err(Fault::other("a string is wanted")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self.content()?).map_err(|fault| fault.at(self.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.content()?.deserialize_any(visitor).map_err(|fault| fault.at(self.name))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.content()?.deserialize_any(visitor).map_err(|fault| fault.at(self.name))
    }
}
