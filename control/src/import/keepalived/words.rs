//! Comments, quotes and escapes of a line (keepalived.conf(5), "Quoted
//! strings").

/// A word; one that was quoted is never a brace of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Word {
    Text(String),
    Open,
    Close,
}

/// The line without its comment, and the comment without its sign.
pub(super) fn decomment(line: &str) -> (&str, Option<&str>) {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '#' | '!') => {
                return (&line[..at], Some(line[at..].trim_start_matches(['#', '!']).trim()));
            }
            _ => {}
        }
    }
    (line, None)
}

/// The words of a line without comment.
pub(super) fn split(line: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '"' || first == '\'' {
            let (text, behind) = quoted(&rest[1..], first)?;
            words.push(Word::Text(text));
            rest = behind.trim_start();
            continue;
        }
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        match word {
            "{" => words.push(Word::Open),
            "}" => words.push(Word::Close),
            // As in `url{`, but not as in `${NAME}` or `a{`b`}`.
            _ => match word.strip_suffix('{').filter(|name| !name.contains(['$', '{', '"', '\''])) {
                Some(name) => words.extend([Word::Text(name.to_owned()), Word::Open]),
                None if word.contains(['"', '\'']) => {
                    let (text, behind) = mixed(rest)?;
                    words.push(Word::Text(text));
                    rest = behind.trim_start();
                    continue;
                }
                None => words.push(Word::Text(word.to_owned())),
            },
        }
        rest = behind.trim_start();
    }
    Ok(words)
}

/// A word with quotes within it, as in `abcd" efg h jkl "mnop`.
fn mixed(mut rest: &str) -> Result<(String, &str), String> {
    let mut text = String::new();
    while let Some(c) = rest.chars().next() {
        if c.is_whitespace() {
            break;
        }
        let behind = &rest[c.len_utf8()..];
        if c == '"' || c == '\'' {
            let (part, behind) = quoted(behind, c)?;
            text += &part;
            rest = behind;
        } else {
            text.push(c);
            rest = behind;
        }
    }
    Ok((text, rest))
}

/// What is between quotes, and the rest behind them.
fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return match String::from_utf8(bytes) {
                Ok(inside) => Ok((inside, &text[at + 1..])),
                Err(_) => Err("the escapes of this quoted string are not UTF-8".into()),
            };
        }
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let Some((_, escape)) = chars.next() else { break };
        let mut digits = |first: u32, radix: u32, most: usize| {
            let mut number = first;
            for _ in 0..most {
                let Some(digit) = chars.peek().and_then(|(_, c)| c.to_digit(radix)) else { break };
                number = (number << if radix == 8 { 3 } else { 4 } | digit) & 0xff;
                chars.next();
            }
            number as u8
        };
        bytes.push(match escape {
            'a' => 7,
            'b' => 8,
            'E' => 27,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            'x' => digits(0, 16, usize::MAX),
            '0'..='7' => digits(escape as u32 - '0' as u32, 8, 2),
            'c' => match chars.next() {
                Some((_, control)) if control.is_ascii() => control as u8 & 0x1f,
                _ => return Err("\\c has no character behind it".into()),
            },
            other => {
                bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        });
    }
    Err(format!("the quote {quote} is not closed in this line"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<String> {
        let show = |word| match word {
            Word::Text(text) => text,
            Word::Open => "<".into(),
            Word::Close => ">".into(),
        };
        split(line).unwrap().into_iter().map(show).collect()
    }

    #[test]
    fn words_are_split_as_the_manual_page_says() {
        for (line, words) in [
            ("  weight\t3 ", vec!["weight", "3"]),
            ("real_server 10.0.2.1 80 {", vec!["real_server", "10.0.2.1", "80", "<"]),
            ("url{ path / }", vec!["url", "<", "path", "/", ">"]),
            (r#"abcd" efg h jkl "mnop"#, vec!["abcd efg h jkl mnop"]),
            (r#"abcd "efg h jkl" mnop"#, vec!["abcd", "efg h jkl", "mnop"]),
            (r#""{" ${A} x{b}"#, vec!["{", "${A}", "x{b}"]),
            (r#"regex "a\\.b\x41\102\"" 'it "is"'"#, vec!["regex", "a\\.bAB\"", "it \"is\""]),
            (r"regex ^a\.b$", vec!["regex", r"^a\.b$"]),
            ("''", vec![""]),
            ("", vec![]),
        ] {
            assert_eq!(texts(line), words, "{line}");
        }
        assert!(split("a \"b").unwrap_err().contains("not closed"));
        assert!(split(r#""\xff""#).unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn comments_begin_anywhere_but_in_quotes() {
        for (line, code, comment) in [
            ("a b # c ! d", "a b ", Some("c ! d")),
            ("!!! x", "", Some("x")),
            ("path \"/a#b\" ! c", "path \"/a#b\" ", Some("c")),
            ("a b", "a b", None),
        ] {
            assert_eq!(decomment(line), (code, comment), "{line}");
        }
    }
}
