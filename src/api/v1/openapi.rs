//! The OpenAPI 3.1 document, made from the table of paths and the types of their answers: there is no second place
//! where a shape is written down.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{ENDPOINTS, Endpoint, ROOT};

const ABOUT: &str = "What Plimsoll decides, why, and what it is decided from. It is read-only. \
    Shapes are a promise: a later release adds to them, and takes nothing away. \
    What is not there is null; durations are seconds; times are RFC 3339 in UTC.";

/// What every answer but a good one has.
#[derive(Serialize, JsonSchema)]
struct Error {
    /// What is wrong, and what would be right.
    error: String,
}

pub(super) fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| made().to_string());
    &DOCUMENT
}

fn made() -> Value {
    // As it is sent: what may be null is there all the same.
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let settings = settings.with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let error = generator.subschema_for::<Error>().to_value();
    let paths: Map<String, Value> = (ENDPOINTS.iter())
        .map(|endpoint| {
            let path = format!("{ROOT}{}", endpoint.path);
            (
                path,
                json!({ "get": operation(endpoint, &error, &mut generator) }),
            )
        })
        .collect();
    json!({
        "openapi": "3.1.1",
        "info": { "title": "Plimsoll", "version": "1", "description": ABOUT },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true) },
    })
}

fn operation(endpoint: &Endpoint, error: &Value, generator: &mut SchemaGenerator) -> Value {
    let names =
        (endpoint.path.split('/')).filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = names
        .map(|name| {
            let schema = json!({ "type": "string" });
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    let body = (endpoint.schema)(generator).to_value();
    let json = |schema: &Value| json!({ "application/json": { "schema": schema } });
    let refused = |why: &str| json!({ "description": why, "content": json(error) });
    let mut responses = json!({
        "200": { "description": endpoint.says, "content": json(&body) },
        "304": { "description": "It is as If-None-Match says" },
        "406": refused("Accept leaves application/json out"),
    });
    if !parameters.is_empty() {
        responses["404"] = refused("There is no such thing");
    }
    json!({ "summary": endpoint.says, "parameters": parameters, "responses": responses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_there_under_one_name_each() {
        let document: Value = serde_json::from_str(document()).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        // Two types of one name would be told apart by a number.
        let numbered = |name: &&String| name.ends_with(|c: char| c.is_ascii_digit());
        assert_eq!(schemas.keys().find(numbered), None);
        assert_eq!(
            document["paths"].as_object().unwrap().len(),
            ENDPOINTS.len()
        );
        assert_every_reference_leads_somewhere(&document, schemas);

        // All that a shape has is always there, as null if need be.
        for (name, schema) in schemas {
            let Some(properties) = schema["properties"].as_object() else {
                continue;
            };
            let required = schema["required"].as_array().map_or(0, Vec::len);
            assert_eq!(required, properties.len(), "{name}");
        }
        let server = &schemas["ServerDetail"]["properties"];
        assert_eq!(server["state"]["type"], "string");
        assert_eq!(server["kept_down"]["anyOf"][1]["type"], "null");
    }

    fn assert_every_reference_leads_somewhere(value: &Value, schemas: &Map<String, Value>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(to)) = members.get("$ref") {
                    let name = to.strip_prefix("#/components/schemas/").unwrap();
                    assert!(schemas.contains_key(name), "{to}");
                }
                let all = members.values();
                all.for_each(|member| assert_every_reference_leads_somewhere(member, schemas));
            }
            Value::Array(items) => {
                let all = items.iter();
                all.for_each(|item| assert_every_reference_leads_somewhere(item, schemas));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}
