//! From lines to blocks.

use super::super::note::{ImportError, Place};
use super::source::{BANG, HASH, Line};
use super::words::{Word, split};

/// Most blocks within each other; keepalived's own need five.
const MAX_DEPTH: usize = 32;

/// A keyword with its words, and its block if it has one.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) place: Place,
    /// At least one
    pub(super) words: Vec<String>,
    pub(super) block: Option<Vec<Statement>>,
    /// Comments of the lines right before it, and of its own
    pub(super) comments: Vec<String>,
}

impl Statement {
    pub(super) fn keyword(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The word behind the keyword, from 1.
    pub(super) fn word(&self, number: usize) -> Option<&str> {
        self.words.get(number).map(String::as_str)
    }

    /// What is in its block.
    pub(super) fn inside(&self) -> &[Statement] {
        self.block.as_deref().unwrap_or_default()
    }
}

pub(super) fn tree(lines: Vec<Line>) -> Result<Vec<Statement>, ImportError> {
    // The statements of each open block, and the one that opened it.
    let mut frames: Frames = vec![(None, Vec::new())];
    let mut comments: Vec<String> = Vec::new();
    for Line { place, code, comment } in lines {
        let words = split(&code).map_err(|text| ImportError::new(&place, text))?;
        if words.is_empty() {
            match comment {
                Some(comment) => comments.push(comment),
                None => comments.clear(),
            }
            continue;
        }
        comments.extend(comment);
        let mut current = Vec::new();
        for word in words {
            match word {
                Word::Text(text) => current.push(text.replace(HASH, "#").replace(BANG, "!")),
                Word::Open => {
                    let opener = if current.is_empty() {
                        let before =
                            frames.last_mut().and_then(|(_, inside)| inside.pop_if(|s| s.block.is_none()));
                        before.ok_or_else(|| {
                            ImportError::new(&place, "nothing is before this { that it belongs to")
                        })?
                    } else {
                        let words = std::mem::take(&mut current);
                        let comments = std::mem::take(&mut comments);
                        Statement { place: place.clone(), words, block: None, comments }
                    };
                    if frames.len() > MAX_DEPTH {
                        let text = format!("more than {MAX_DEPTH} blocks are within each other");
                        return Err(ImportError::new(&place, text));
                    }
                    frames.push((Some(opener), Vec::new()));
                }
                Word::Close => {
                    flush(&mut frames, &mut current, &mut comments, &place);
                    let Some((Some(mut opener), inside)) = frames.pop() else {
                        return Err(ImportError::new(
                            &place,
                            "this } closes nothing: one is too many, or a { is missing",
                        ));
                    };
                    opener.block = Some(inside);
                    if let Some((_, outer)) = frames.last_mut() {
                        outer.push(opener);
                    }
                }
            }
        }
        flush(&mut frames, &mut current, &mut comments, &place);
        comments.clear();
    }
    match frames.pop() {
        Some((Some(opener), _)) => {
            let text = format!("the block of {} is not closed: a }} is missing", opener.keyword());
            Err(ImportError::new(&opener.place, text))
        }
        Some((None, statements)) => Ok(statements),
        None => Ok(Vec::new()),
    }
}

type Frames = Vec<(Option<Statement>, Vec<Statement>)>;

/// Ends a statement where words are left of it.
fn flush(frames: &mut Frames, current: &mut Vec<String>, comments: &mut Vec<String>, place: &Place) {
    if current.is_empty() {
        return;
    }
    let words = std::mem::take(current);
    let statement =
        Statement { place: place.clone(), words, block: None, comments: std::mem::take(comments) };
    if let Some((_, inside)) = frames.last_mut() {
        inside.push(statement);
    }
}
