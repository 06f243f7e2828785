//! From files to lines: includes, conditions and definitions
//! (keepalived.conf(5), "Advanced configuration").

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::super::note::{ImportError, Notes, Place};
use super::words::decomment;

/// Most bytes that files, and what is put in place of definitions, may have.
pub(in super::super) const MAX_BYTES: usize = 32 << 20;

/// Longest line.
const MAX_LINE: usize = 64 << 10;

/// Most files within each other.
const MAX_INCLUDES: usize = 16;

/// Most definitions within each other.
const MAX_NESTED: usize = 64;

/// What stands for `#` and `!` that begin no comment, until lines are split.
pub(super) const HASH: char = '\u{e000}';
pub(super) const BANG: char = '\u{e001}';

const INCLUDES: [&str; 6] = ["include", "includer", "includem", "includew", "includeb", "includea"];

/// A line as it is to be read.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) place: Place,
    pub(super) code: String,
    pub(super) comment: Option<String>,
}

/// Reads lines, and those of included files.
pub(super) struct Source<'a> {
    /// What conditions (`@main`) are compared with
    id: &'a str,
    definitions: BTreeMap<String, String>,
    /// The files that are being read, each within the one before it
    open: Vec<PathBuf>,
    left: usize,
    lines: Vec<Line>,
    notes: &'a mut Notes,
}

impl<'a> Source<'a> {
    /// All lines of a text; `path` is where it is from, if that is a file.
    pub(super) fn lines(
        name: &str,
        path: Option<&Path>,
        text: &str,
        id: &'a str,
        notes: &'a mut Notes,
    ) -> Result<Vec<Line>, ImportError> {
        let mut source = Source {
            id,
            definitions: BTreeMap::new(),
            open: Vec::new(),
            left: MAX_BYTES,
            lines: Vec::new(),
            notes,
        };
        let path = path
            .map_or_else(|| PathBuf::from("."), |path| path.canonicalize().unwrap_or_else(|_| path.into()));
        let dir =
            if path.is_dir() { path.clone() } else { path.parent().unwrap_or(Path::new(".")).to_owned() };
        source.open.push(path);
        source.file(&name.into(), &dir, text)?;
        Ok(source.lines)
    }

    fn file(&mut self, name: &Rc<str>, dir: &Path, text: &str) -> Result<(), ImportError> {
        let mut lines = (1..).zip(text.lines());
        while let Some((line, text)) = lines.next() {
            let place = Place { file: Rc::clone(name), line };
            self.spend(&place, text.len())?;
            let (code, _) = decomment(text);
            if let Some(pattern) = included(code) {
                self.include(&place, dir, pattern)?;
                continue;
            }
            if !is_definition(code) || !code.trim_end().ends_with('\\') {
                self.line(&place, dir, text, 0)?;
                continue;
            }
            // The value goes on for as long as lines end with a backslash.
            let mut whole = code.trim_end().trim_end_matches('\\').trim_end().to_owned();
            loop {
                let Some((_, next)) = lines.next() else {
                    return Err(ImportError::new(&place, "the last line of this definition is missing"));
                };
                self.spend(&place, next.len())?;
                let next = next.trim_end();
                whole.push('\n');
                whole += next.strip_suffix('\\').unwrap_or(next);
                if !next.ends_with('\\') {
                    break;
                }
            }
            self.line(&place, dir, &whole, 0)?;
        }
        Ok(())
    }

    /// Takes from what may be read in all.
    fn spend(&mut self, place: &Place, bytes: usize) -> Result<(), ImportError> {
        let left = self.left.checked_sub(bytes + 1);
        self.left = left.ok_or_else(|| {
            let text = format!("with what is included and defined this is more than {MAX_BYTES} bytes");
            ImportError::new(place, text)
        })?;
        Ok(())
    }

    fn line(&mut self, place: &Place, dir: &Path, text: &str, depth: usize) -> Result<(), ImportError> {
        if depth > MAX_NESTED {
            return Err(ImportError::new(place, "a definition leads to itself"));
        }
        let mut text = text.to_owned();
        let mut replaced = 0;
        loop {
            if text.len() > MAX_LINE && !is_definition(&text) {
                return Err(ImportError::new(place, format!("the line is longer than {MAX_LINE} bytes")));
            }
            let trimmed = text.trim_start();
            if let Some(rest) = trimmed.strip_prefix('@') {
                let (word, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                let holds = match word.strip_prefix('^') {
                    Some(other) => other != self.id,
                    None => word == self.id,
                };
                if !holds {
                    return Ok(());
                }
                text = rest.to_owned();
                continue;
            }
            if let Some((name, value)) = definition(trimmed) {
                self.definitions.insert(name.to_owned(), value.to_owned());
                return Ok(());
            }
            let (code, comment) = decomment(&text);
            if code.trim_start().starts_with("~SEQ") || code.trim_start().starts_with("~LST") {
                let what = "~SEQ and ~LST blocks are not imported: write out the lines that they stand for";
                return Err(ImportError::new(place, what));
            }
            let Some((range, value)) = self.reference(place, dir, code)? else {
                let comment = comment.map(str::to_owned);
                self.lines.push(Line { place: place.clone(), code: code.to_owned(), comment });
                return Ok(());
            };
            replaced += 1;
            self.spend(place, text.len() + value.len())?;
            if replaced > MAX_NESTED {
                return Err(ImportError::new(place, "a definition leads to itself"));
            }
            let new = format!("{}{value}{}", &text[..range.start], &text[range.end..]);
            if new.contains('\n') {
                return new.split('\n').try_for_each(|line| self.line(place, dir, line, depth + 1));
            }
            text = new;
        }
    }

    /// The first use of a definition that there is, and its value.
    fn reference(
        &self,
        place: &Place,
        dir: &Path,
        code: &str,
    ) -> Result<Option<(std::ops::Range<usize>, String)>, ImportError> {
        for (at, _) in code.match_indices('$') {
            let behind = &code[at + 1..];
            let (name, end) = match behind.strip_prefix('{') {
                Some(braced) => match braced.split_once('}') {
                    Some((name, _)) => (name, at + name.len() + 3),
                    None => continue,
                },
                None => {
                    let name = behind.split(char::is_whitespace).next().unwrap_or_default();
                    (name, at + 1 + name.len())
                }
            };
            let value = match name {
                "_PWD" => Some(dir.display().to_string()),
                "_INSTANCE" => Some(self.id.to_owned()),
                _ if name.split_whitespace().next() == Some("_RANDOM") => {
                    return Err(ImportError::new(place, "${_RANDOM} is not imported: write a number"));
                }
                "_HASH" => Some(HASH.to_string()),
                "_BANG" => Some(BANG.to_string()),
                name => self.definitions.get(name).cloned(),
            };
            if let Some(value) = value {
                return Ok(Some((at..end, value)));
            }
        }
        Ok(None)
    }

    fn include(&mut self, place: &Place, dir: &Path, pattern: &str) -> Result<(), ImportError> {
        let error = |text: String| Err(ImportError::new(place, text));
        if pattern.contains(['{', '$']) {
            return error(format!("include {pattern}: braces and $ are not imported here: name the files"));
        }
        // `join` leaves an absolute path as it is.
        let wanted = dir.join(pattern);
        let Some(wanted) = wanted.to_str() else {
            return error("the path of the file is not UTF-8".into());
        };
        let paths = match glob::glob(wanted) {
            Ok(paths) => paths,
            Err(problem) => return error(format!("include {pattern}: {problem}")),
        };
        let mut some = false;
        for path in paths {
            let path = match path.map(|path| path.canonicalize().map(|real| (path, real))) {
                Ok(Ok(path)) => path,
                Ok(Err(problem)) => return error(format!("include {pattern}: {problem}")),
                Err(problem) => return error(format!("include {pattern}: {problem}")),
            };
            let (path, real) = path;
            if !real.is_file() {
                continue;
            }
            some = true;
            if self.open.contains(&real) {
                return error(format!("{} includes itself", path.display()));
            }
            if self.open.len() > MAX_INCLUDES {
                return error(format!("more than {MAX_INCLUDES} files are within each other"));
            }
            let text = match read(&real, self.left) {
                Ok(text) => text,
                Err(problem) => return error(format!("cannot read {}: {problem}", path.display())),
            };
            let dir = real.parent().unwrap_or(Path::new("/")).to_owned();
            self.open.push(real);
            self.file(&path.display().to_string().into(), &dir, &text)?;
            self.open.pop();
        }
        if !some {
            self.notes.add(place, format!("include {pattern}: there is no such file"));
        }
        Ok(())
    }
}

/// Reads at most so many bytes and one more, of which the caller takes account.
fn read(path: &Path, most: usize) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn included(code: &str) -> Option<&str> {
    let (word, rest) = code.trim().split_once(char::is_whitespace)?;
    INCLUDES.contains(&word).then(|| rest.trim().trim_matches(['"', '\'']))
}

fn is_definition(text: &str) -> bool {
    let text = text.trim_start();
    // Behind a condition, too.
    let text = match text.strip_prefix('@') {
        Some(rest) => rest.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start()),
        None => text,
    };
    definition(text).is_some()
}

/// `$NAME=VALUE`
fn definition(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.strip_prefix('$')?.split_once('=')?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let good = name.starts_with(|c: char| fits(c) && !c.is_ascii_digit()) && name.chars().all(fits);
    good.then(|| (name, value.trim()))
}
