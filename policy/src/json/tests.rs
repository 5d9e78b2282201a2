use super::*;

fn kind(text: &str) -> Kind {
    parse(text).unwrap_or_else(|e| panic!("{text}: {e:?}")).kind
}

#[test]
fn comments_and_trailing_commas_are_read_and_every_value_knows_its_place() {
    let root = parse("\u{feff}// a\n{ /* ü */ \"k\": [1, \"two\", true, null,], }").unwrap();
    let Kind::Object(members) = root.kind else { panic!() };
    assert_eq!((members[0].key.as_str(), members[0].pos), ("k", Pos { line: 2, column: 11 }));
    let Kind::Array(items) = &members[0].value.kind else { panic!() };
    assert_eq!(items[1], Value { pos: Pos { line: 2, column: 20 }, kind: Kind::Text("two".into()) });
    assert_eq!(items[2].kind, Kind::Bool(true));
    assert_eq!((items.len(), &items[3].kind), (4, &Kind::Null));
}

#[test]
fn escapes_are_those_of_json() {
    assert_eq!(kind(r#""a\"\\\/\n\u00e4\ud83d\ude00""#), Kind::Text("a\"\\/\nä😀".into()));
    for bad in
        [r#""\x41""#, r#""\ud83d""#, r#""\ud83dx""#, r#""\ude00""#, r#""\u12""#, "\"\t\"", "\"\n\"", r#""\"#]
    {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_not_json_is_refused() {
    for bad in [
        "",
        "{,}",
        "[,]",
        "[1 2]",
        "{\"a\" 1}",
        "{\"a\":}",
        "tru",
        "-",
        "1.2.3",
        "'a'",
        "/",
        "# x",
        "{}}",
        "/*",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    assert_eq!(kind("-1.5e3"), Kind::Number("-1.5e3".into()));
}
