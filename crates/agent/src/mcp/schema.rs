//! Can a value be checked against this schema in a bounded time?
//!
//! A schema of a few lines may refer to itself, or to parts that refer to parts twice each, so that checking one value
//! takes for ever: an exponential form of the "billion laughs". Such schemas are refused where they come in.

use serde_json::Value;
use std::collections::HashMap;

/// The most parts that a schema may have when each reference is put in place.
const PARTS: u64 = 10_000;

/// Parts of a schema by their pointers: how many parts each unfolds to; none while that is being counted.
type Counted<'a> = HashMap<&'a str, Option<u64>>;

/// Whether the time to check a value has a bound that is known from the schema alone.
///
/// # Errors
/// What about the schema has no such bound.
pub(super) fn bounded(schema: &Value) -> Result<(), String> {
    match referred(schema, "#", &mut Counted::new())? {
        0..=PARTS => Ok(()),
        _ => Err(format!("it unfolds to more than {PARTS} parts")),
    }
}

fn parts<'a>(whole: &'a Value, part: &'a Value, counted: &mut Counted<'a>) -> Result<u64, String> {
    let mut sum: u64 = 1;
    match part {
        Value::Array(items) => {
            for item in items {
                sum = sum.saturating_add(parts(whole, item, counted)?);
            }
        }
        Value::Object(members) => {
            for (name, value) in members {
                let more = match value {
                    // Where it defines, it is counted when something refers to it.
                    Value::Object(_) if matches!(name.as_str(), "$defs" | "definitions") => 0,
                    Value::String(to) if name == "$ref" => referred(whole, to, counted)?,
                    Value::String(_) if matches!(name.as_str(), "$dynamicRef" | "$recursiveRef") => {
                        return Err(format!("{name} is not supported"));
                    }
                    value => parts(whole, value, counted)?,
                };
                sum = sum.saturating_add(more);
            }
        }
        _ => {}
    }
    Ok(sum)
}

fn referred<'a>(whole: &'a Value, to: &'a str, counted: &mut Counted<'a>) -> Result<u64, String> {
    let pointer = to.strip_prefix('#').filter(|pointer| pointer.is_empty() || pointer.starts_with('/'));
    let pointer = pointer.ok_or_else(|| format!("$ref {to:?} is no place within the schema"))?;
    match counted.get(pointer) {
        Some(Some(known)) => return Ok(*known),
        Some(None) => return Err(format!("$ref {to:?} leads back to itself")),
        None => {}
    }
    let part = whole.pointer(pointer).ok_or_else(|| format!("$ref {to:?} leads nowhere"))?;
    counted.insert(pointer, None);
    let sum = parts(whole, part, counted)?;
    counted.insert(pointer, Some(sum));
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A definition for each level, which refers to the one below as often as told.
    fn levels(levels: usize, times: usize) -> Value {
        let below = |level: usize| json!({ "$ref": format!("#/$defs/{level}") });
        let level = |level: usize| (level.to_string(), json!({ "allOf": vec![below(level + 1); times] }));
        let mut defs: serde_json::Map<String, Value> = (0..levels).map(level).collect();
        defs.insert(levels.to_string(), json!({ "type": "string" }));
        json!({ "$ref": "#/$defs/0", "$defs": defs })
    }

    #[test]
    fn a_schema_is_taken_if_it_is_small_unfolded_too() {
        for (schema, refused) in [
            (json!({}), None),
            (
                json!({ "properties": { "a": { "$ref": "#/$defs/a" }, "b": { "$ref": "#/$defs/a" } }, "$defs": { "a": {} } }),
                None,
            ),
            (levels(100, 1), None),
            (levels(8, 2), None),
            (levels(28, 2), Some("unfolds")),
            (levels(200, 2), Some("unfolds")),
            (json!({ "properties": { "child": { "$ref": "#" } } }), Some("back to itself")),
            (
                json!({ "$ref": "#/$defs/a", "$defs": { "a": { "items": { "$ref": "#/$defs/b" } }, "b": { "not": { "$ref": "#/$defs/a" } } } }),
                Some("back to itself"),
            ),
            (json!({ "$ref": "#/$defs/missing" }), Some("nowhere")),
            (json!({ "$ref": "https://example.com/schema" }), Some("within")),
            (json!({ "$dynamicRef": "#node" }), Some("not supported")),
        ] {
            match (bounded(&schema), refused) {
                (Ok(()), None) => {}
                (Err(error), Some(word)) => assert!(error.contains(word), "{error}"),
                (result, _) => panic!("{result:?}: {schema}"),
            }
        }
    }
}
