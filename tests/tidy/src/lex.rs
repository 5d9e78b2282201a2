//! Just enough of Rust's lexical structure to tell code from comments, literals and test modules.
//! It never parses expressions. Every function keeps line breaks, so that line numbers stay true.

/// The text with comments, string and character literals replaced by spaces.
pub fn blank_non_code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => block_comment_end(&chars, at),
            '"' => string_end(&chars, at + 1),
            'r' | 'b' | 'c' if !follows_word(&chars, at) => match prefixed_literal_end(&chars, at) {
                Some(end) => end,
                None => {
                    out.push(chars[at]);
                    at += 1;
                    continue;
                }
            },
            '\'' => match char_literal_end(&chars, at) {
                Some(end) => end,
                None => {
                    out.push('\'');
                    at += 1;
                    continue;
                }
            },
            other => {
                out.push(other);
                at += 1;
                continue;
            }
        };
        out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// Code (already without comments and literals) with every `#[cfg(test)] mod … { … }` blanked.
pub fn blank_test_modules(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(found) = out[from..].find(MARK) {
        let start = from + found;
        let rest = &out[start + MARK.len()..];
        let item = rest.trim_start();
        let is_module = item.starts_with("mod ") || item.starts_with("pub mod ") || item.starts_with("#[");
        let open = rest.find(['{', ';']).filter(|at| rest.as_bytes()[*at] == b'{');
        let (true, Some(open)) = (is_module, open) else {
            from = start + MARK.len();
            continue;
        };
        let open = start + MARK.len() + open;
        let end = matching_brace(&out, open).unwrap_or(out.len());
        let blank: String = out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blank);
        from = start + blank.len();
    }
    out
}

/// Structs with named fields in code without comments: `(name, line, fields)`.
pub(crate) fn structs(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("struct ") {
        if code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "struct ".len()..];
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(open) = rest.find(['{', ';', '(']).filter(|at| rest.as_bytes()[*at] == b'{') else {
            continue;
        };
        let open = at + "struct ".len() + open;
        let Some(end) = matching_brace(code, open) else { continue };
        let line = code[..at].matches('\n').count() + 1;
        found.push((name, line, count_fields(&code[open + 1..end - 1])));
    }
    found
}

/// Single colons outside any bracket: one per named field.
fn count_fields(body: &str) -> usize {
    let bytes = body.as_bytes();
    let mut depth = 0i32;
    let mut fields = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let previous = at.checked_sub(1).map(|i| bytes[i]);
        match byte {
            b'(' | b'[' | b'{' | b'<' => depth += 1,
            b'>' if previous == Some(b'-') => {}
            b')' | b']' | b'}' | b'>' => depth -= 1,
            b':' if depth == 0 && previous != Some(b':') && bytes.get(at + 1) != Some(&b':') => fields += 1,
            _ => {}
        }
    }
    fields
}

/// The byte after the brace that closes the one at `open`.
fn matching_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

fn follows_word(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

fn line_end(chars: &[char], at: usize) -> usize {
    (at..chars.len()).find(|i| chars[*i] == '\n').unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

/// The index after the closing quote; `at` is the first character inside.
fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br"…"`, `b'…'`, `c"…"`.
fn prefixed_literal_end(chars: &[char], start: usize) -> Option<usize> {
    let mut at = start;
    while at < chars.len() && at < start + 2 && matches!(chars[at], 'r' | 'b' | 'c') {
        at += 1;
    }
    let raw = chars[start..at].contains(&'r');
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    match chars.get(at + hashes)? {
        '"' if raw => {
            let mut end = at + hashes + 1;
            while end < chars.len() {
                if chars[end] == '"'
                    && chars[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
                {
                    return Some(end + 1 + hashes);
                }
                end += 1;
            }
            Some(chars.len())
        }
        '"' if hashes == 0 => Some(string_end(chars, at + 1)),
        '\'' if hashes == 0 && chars[start] == 'b' => char_literal_end(chars, at),
        _ => None,
    }
}

/// The index after a character literal at `start`; nothing for a lifetime.
fn char_literal_end(chars: &[char], start: usize) -> Option<usize> {
    match chars.get(start + 1)? {
        '\\' => (start + 3..chars.len().min(start + 14)).find(|i| chars[*i] == '\'').map(|i| i + 1),
        _ if chars.get(start + 2) == Some(&'\'') => Some(start + 3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "let a = \"unsafe\"; // unsafe\nlet b = r#\"unsafe \" x\"#; /* unsafe /* x */ */ let c = '\"'; let d: &'static str = b\"x\";";
        let code = blank_non_code(text);
        assert!(!code.contains("unsafe"), "{code}");
        assert!(code.contains("let d: &'static str ="), "{code}");
        assert_eq!(code.matches('\n').count(), 1);
    }

    #[test]
    fn an_inline_test_module_is_not_production_code() {
        let code = blank_test_modules(
            "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { Instant::now(); }\n}\nfn c() {}\n",
        );
        assert!(code.contains("fn a") && code.contains("fn c"));
        assert!(!code.contains("Instant"));
        let kept = blank_test_modules("#[cfg(test)]\nmod tests;\nfn c() { x }\n");
        assert!(kept.contains("fn c"));
    }

    #[test]
    fn fields_are_counted_through_generics_and_attributes() {
        let code = blank_non_code(
            "pub struct A<T: Copy> {\n #[serde(default = \"x\")]\n a: Vec<(u8, std::string::String)>,\n pub(crate) b: Box<dyn Fn(u8) -> T>,\n c: [u8; 4],\n}\nstruct B(u8);\n",
        );
        assert_eq!(structs(&code), vec![("A".to_owned(), 1, 3)]);
    }
}
