//! The Call-ID of a SIP message (RFC 3261, section 20.8), by which the
//! persistence engine `sip` tells calls apart.
//!
//! Messages are read as IPVS reads them (`ip_vs_pe_sip.c`, with the parser of
//! `nf_conntrack_sip.c`): what it finds no Call-ID in, it drops, and two
//! directors of one cluster must agree. So a line may end in CR, LF or both, a
//! first line is never a header, and one that is named right and has no colon
//! ends the search. `tests/data/sip_call_id.txt` holds what Linux 6.1 found in
//! such messages.

/// Most bytes of a Call-ID: a message with a longer one has none
/// (`IP_VS_PEDATA_MAXLEN`).
pub const LONGEST_CALL_ID: usize = 255;

const NAME: &[u8] = b"Call-ID";

/// The compact form of the name.
const COMPACT: u8 = b'i';

/// What became of the search for a header.
enum Search {
    /// Its value begins at the first and ends before the second place
    Found(usize, usize),
    /// The header at this place has no value that can be one
    Broken(usize),
    /// There is none
    Nothing,
}

/// The Call-ID in the payload of a datagram: at most [`LONGEST_CALL_ID`] bytes,
/// and at least one. Takes time in proportion to the payload's length.
pub fn call_id(message: &[u8]) -> Option<&[u8]> {
    let mut from = 0;
    loop {
        match search(message, from) {
            Search::Found(begin, end) => {
                let value = &message[begin..end];
                let ended = message.get(end).is_some_and(|byte| ends_line(*byte));
                return (ended && value.len() <= LONGEST_CALL_ID).then_some(value);
            }
            // Further on than need be, but so it is in the kernel.
            Search::Broken(place) => from += place,
            Search::Nothing => return None,
        }
    }
}

/// Looks for the first header of the name on a line that begins after `from`.
fn search(message: &[u8], from: usize) -> Search {
    let mut at = from;
    while let Some(end) = message.get(at..).and_then(|rest| rest.iter().position(|byte| ends_line(*byte))) {
        at = after_line_end(message, at + end);
        match message.get(at..).map(name_length) {
            Some(Some(length)) => return value(message, at + length).unwrap_or(Search::Nothing),
            // The byte that begins a line is not looked at again, even if it ends
            // another one.
            _ => at += 1,
        }
    }
    Search::Nothing
}

/// How long the name is that a line begins with, if it is the one.
fn name_length(line: &[u8]) -> Option<usize> {
    if line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)) {
        return Some(NAME.len());
    }
    match line {
        [first, next, ..] if first.eq_ignore_ascii_case(&COMPACT) && !is_letter(*next) => Some(1),
        _ => None,
    }
}

/// The value of a header whose name ends before `at`.
fn value(message: &[u8], at: usize) -> Option<Search> {
    let colon = after_whitespace(message, at)?;
    let begin = (message.get(colon) == Some(&b':') && colon + 1 < message.len()).then_some(colon + 1)?;
    let begin = after_whitespace(message, begin)?;
    let word = |at: usize| message[at..].iter().take_while(|byte| is_of_word(**byte)).count();
    let mut end = begin + word(begin);
    if end > begin && message.get(end) == Some(&b'@') {
        let host = word(end + 1);
        end = if host == 0 { begin } else { end + 1 + host };
    }
    Some(if end == begin { Search::Broken(begin) } else { Search::Found(begin, end) })
}

/// Where spaces and tabs end, going on with the next line if that begins with
/// some; nothing if it does not.
fn after_whitespace(message: &[u8], at: usize) -> Option<usize> {
    let at = after_blanks(message, at);
    match message.get(at) {
        Some(byte) if ends_line(*byte) => {
            let next = after_line_end(message, at);
            is_blank(*message.get(next)?).then(|| after_blanks(message, next))
        }
        _ => Some(at),
    }
}

fn after_blanks(message: &[u8], at: usize) -> usize {
    at + message[at..].iter().take_while(|byte| is_blank(**byte)).count()
}

/// Where the next line begins after the one that ends at `at`.
fn after_line_end(message: &[u8], at: usize) -> usize {
    if message[at..].starts_with(b"\r\n") { at + 2 } else { at + 1 }
}

fn ends_line(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A letter of Latin-1 as the kernel has them (`lib/ctype.c`).
fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, 0xc0..=0xd6 | 0xd8..=0xf6 | 0xf8..=0xff)
}

/// Whether a byte may be in a `word` (RFC 3261, section 25.1).
fn is_of_word(byte: u8) -> bool {
    is_letter(byte) || byte.is_ascii_digit() || b"-.!%*_+`'~()<>:\\\"/[]?{}".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    /// A message, by its name in `sip_call_id.txt`, and what was found in it.
    type Recorded = (&'static str, Vec<u8>, Option<Vec<u8>>);

    /// The lines of `sip_call_id.txt`, whose bytes are written as Rust has them.
    fn recorded() -> Vec<Recorded> {
        let unescaped = |text: &str| {
            let mut bytes = Vec::new();
            let mut rest = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap().chars();
            while let Some(c) = rest.next() {
                let byte = match c {
                    '\\' => match rest.next().unwrap() {
                        'r' => b'\r',
                        'n' => b'\n',
                        't' => b'\t',
                        'x' => u8::from_str_radix(&rest.by_ref().take(2).collect::<String>(), 16).unwrap(),
                        other => u8::try_from(other).unwrap(),
                    },
                    other => u8::try_from(other).unwrap(),
                };
                bytes.push(byte);
            }
            bytes
        };
        let lines = include_str!("../tests/data/sip_call_id.txt").lines();
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| {
                let [name, message, answer] = line.split('\t').collect::<Vec<_>>()[..] else {
                    panic!("{line}")
                };
                (name, unescaped(message), (answer != "none").then(|| unescaped(answer)))
            })
            .collect()
    }

    #[test]
    fn messages_are_read_as_ipvs_reads_them() {
        let all = recorded();
        assert!(all.len() > 60);
        for (name, message, expected) in all {
            let found = call_id(&message).map(<[u8]>::to_vec);
            assert_eq!(found, expected, "{name}: {:?}", message.escape_ascii().to_string());
        }
    }

    /// Bytes that a message is likely to go wrong by.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            prop::sample::select(vec![
                &b"\r\n"[..],
                b"\r",
                b"\n",
                b" ",
                b"\t",
                b"Call-ID",
                b"call-id:",
                b"i",
                b"I:",
                b":",
                b"@",
                b"a",
                b"a@b",
                b"Via: x",
                b"\0",
                b"\xff",
            ])
            .prop_map(<[u8]>::to_vec),
            prop::collection::vec(any::<u8>(), 0..6),
            (250usize..260).prop_map(|length| vec![b'x'; length]),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(5060), ..ProptestConfig::with_cases(20_000) })]

        /// Whatever the bytes, what is found is of a Call-ID's bytes, of bounded
        /// length, and at a line's end.
        #[test]
        fn any_bytes_are_survived(message in pieces()) {
            if let Some(found) = call_id(&message) {
                prop_assert!((1..=LONGEST_CALL_ID).contains(&found.len()));
                prop_assert!(found.iter().all(|byte| is_of_word(*byte) || *byte == b'@'));
                let end = found.as_ptr() as usize - message.as_ptr() as usize + found.len();
                prop_assert!(ends_line(message[end]));
            }
        }

        /// A message that is in order has its Call-ID, whatever comes before and
        /// after it.
        #[test]
        fn a_call_id_in_order_is_found(
            before in prop::collection::vec("[A-HJ-Z][a-z]{2,9}: [ -~]{0,30}", 0..5),
            name in prop::sample::select(vec!["Call-ID: ", "call-id:", "i: ", "I :"]),
            id in "[a-zA-Z0-9.-]{1,120}(@[a-zA-Z0-9.]{1,120})?",
            after in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut message = b"INVITE sip:bob@example.com SIP/2.0\r\n".to_vec();
            before.iter().for_each(|line| message.extend([line.as_bytes(), b"\r\n"].concat()));
            message.extend([name.as_bytes(), id.as_bytes(), b"\r\n", &after].concat());
            prop_assert_eq!(call_id(&message), Some(id.as_bytes()));
        }
    }
}
