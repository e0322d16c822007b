//! Compares the schema in `proto/` with the structs in `proto.rs`.

use std::collections::BTreeMap;

/// (message, field) → (number, type, repeated).
type Schema = BTreeMap<(String, String), (u32, String, bool)>;

fn of_proto(text: &str) -> Schema {
    let (mut schema, mut message) = (Schema::new(), String::new());
    for line in text.lines() {
        let code = line.split("//").next().unwrap().trim();
        if let Some(name) = code.strip_prefix("message ") {
            message = name.trim_end_matches(" {").to_owned();
        } else if let Some((declaration, number)) = code.split_once(" = ")
            && !message.is_empty()
        {
            let words: Vec<&str> = declaration.split_whitespace().collect();
            let (kind, name) = (words[words.len() - 2], words[words.len() - 1]);
            let number = number.trim_end_matches(';').parse().unwrap();
            let field = (number, kind.to_owned(), words[0] == "repeated");
            schema.insert((message.clone(), name.to_owned()), field);
        }
    }
    schema
}

fn of_rust(text: &str) -> Schema {
    let (mut schema, mut message, mut attribute) = (Schema::new(), String::new(), String::new());
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub struct ") {
            message = name.trim_end_matches(" {").to_owned();
        } else if let Some(inner) = line.strip_prefix("#[prost(") {
            attribute = inner.trim_end_matches(")]").to_owned();
        } else if let Some(field) = line.strip_prefix("pub ") {
            let (name, rust_type) = field.trim_end_matches(',').split_once(": ").unwrap();
            let tag = attribute.split("tag = \"").nth(1).unwrap().trim_end_matches('"');
            let kind = match attribute.split([',', ' ']).next().unwrap() {
                // The type inside Vec<…> or Option<…>.
                "message" => rust_type.trim_end_matches('>').rsplit('<').next().unwrap(),
                // Documented on the field: bytes and string are the same on the wire.
                "bytes" if name == "string_table" => "string",
                scalar => scalar,
            };
            let is_repeated = attribute.contains("repeated");
            assert_eq!(is_repeated, rust_type.starts_with("Vec<"), "{message}.{name}");
            let name = name.trim_start_matches("r#").to_owned();
            schema.insert(
                (message.clone(), name),
                (tag.parse().unwrap(), kind.to_owned(), is_repeated),
            );
        }
    }
    schema
}

#[test]
fn structs_match_the_schema() {
    let schema = of_proto(include_str!("../../../proto/profile.proto"));
    let structs = of_rust(include_str!("../src/proto.rs"));
    assert_eq!(schema.len(), 15 + 2 + 3 + 4 + 10 + 5 + 3 + 5, "number of fields found");
    assert_eq!(schema, structs);
}
