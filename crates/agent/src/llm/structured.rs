//! Does the last answer obey the schema that was asked for?

use super::config::LlmConfigError;
use serde_json::Value;

/// Complaints that the model is told at once.
const COMPLAINTS: usize = 8;

/// A schema for answers.
#[derive(Debug)]
pub(super) struct Shape {
    validator: jsonschema::Validator,
}

impl Shape {
    pub(super) fn new(schema: &Value) -> Result<Shape, LlmConfigError> {
        match jsonschema::validator_for(schema) {
            Ok(validator) => Ok(Shape { validator }),
            Err(error) => Err(LlmConfigError::invalid("schema", error.to_string())),
        }
    }

    /// The answer as a value.
    ///
    /// # Errors
    /// What is wrong with it, for the model.
    pub(super) fn read(&self, answer: &str) -> Result<Value, String> {
        let value: Value = serde_json::from_str(unfenced(answer)).map_err(|error| format!("it is no JSON: {error}"))?;
        let complaint = |error: jsonschema::ValidationError<'_>| {
            let place = error.instance_path().to_string();
            if place.is_empty() { error.to_string() } else { format!("{place}: {error}") }
        };
        let complaints: Vec<String> = self.validator.iter_errors(&value).take(COMPLAINTS).map(complaint).collect();
        if complaints.is_empty() { Ok(value) } else { Err(complaints.join("; ")) }
    }
}

/// Models like to put JSON between fences.
fn unfenced(answer: &str) -> &str {
    let answer = answer.trim();
    let inner = answer.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    inner.map_or(answer, |inner| inner.strip_prefix("json").unwrap_or(inner).trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_are_read_and_judged() {
        let shape =
            Shape::new(&json!({ "type": "object", "required": ["n"], "properties": { "n": { "type": "integer" } } }));
        let shape = shape.expect("a schema");
        for good in ["{\"n\":1}", " {\"n\":1}\n", "```json\n{\"n\":1}\n```", "```\n{\"n\":1}```"] {
            assert_eq!(shape.read(good), Ok(json!({ "n": 1 })), "{good}");
        }
        for (bad, why) in [("", "no JSON"), ("Here: {}", "no JSON"), ("{}", "n"), ("{\"n\":\"1\"}", "/n: ")] {
            let error = shape.read(bad).expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(Shape::new(&json!({ "type": 7 })).is_err());
    }
}
