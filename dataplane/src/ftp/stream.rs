//! One direction of a control connection whose text is changed on the way.
//!
//! The sender numbers its bytes as it sent them, the receiver as it gets them.
//! An [`Edit`] replaces a range of the sender's bytes by a text of another
//! length, and so shifts all that follows. [`Stream::map`] takes a sender's
//! number to the receiver's, and is the whole truth: a segment from `s` to `e`
//! becomes the bytes from `map(s)` to `map(e)`, however the sender cuts its
//! bytes into segments and however often it sends them. Within an edit the
//! bytes of the new text stand for those of the old one by one, and what is
//! left of the longer one for the end of the other.
//!
//! Edits are kept until the receiver acknowledged them. After that they are
//! but a shift of all that follows, and what the sender may still send of the
//! bytes before, the receiver has and does not look at.

use super::command::Text;
use crate::sync::Adjustment;

/// Edits that may be unacknowledged at once. A client waits for the reply to
/// one command before it sends the next, so one does.
pub const MOST_EDITS: usize = 4;

/// How far a number may be from the last that was seen: as much as a sender
/// that waits for answers has under way. Whoever guesses both numbers of a
/// segment has a chance of 2⁻³¹.
const MOST_AHEAD: u32 = 1 << 16;

/// Bytes that are kept of a line that came in parts: enough to tell `EPSV 2`.
const LINE_START: usize = 12;

/// Whether `a` comes before `b` in sequence space (RFC 9293, section 3.4).
#[inline]
pub fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// A text in place of some of the sender's bytes.
#[derive(Clone, Copy, Debug)]
struct Edit {
    start: u32,
    length: u32,
    text: Text,
}

impl Edit {
    fn end(&self) -> u32 {
        self.start.wrapping_add(self.length)
    }

    fn new_length(&self) -> u32 {
        self.text.bytes().len() as u32
    }

    /// What it adds to the numbers of all that follows.
    fn shift(&self) -> u32 {
        self.new_length().wrapping_sub(self.length)
    }
}

/// More edits are unacknowledged than are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// One direction.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Number of the first byte that was not seen yet
    next: u32,
    /// Shift by all edits that were acknowledged
    shift: u32,
    /// There from the first replacement on, which most never see
    edits: Option<Box<[Edit; MOST_EDITS]>>,
    count: u8,
    /// The start of a line of which a part was seen
    line: [u8; LINE_START],
    /// Bytes of that line, which may be more than are kept; 0 at its start
    line_length: u16,
    /// Another director followed it, and `next` is not known yet
    resumed: bool,
}

/// What a stream has to say of a part of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line<'a> {
    /// A line that is whole in one segment: it may be changed
    Whole(&'a [u8]),
    /// The start of a line that came in parts, at its end
    Parted(&'a [u8]),
}

impl Stream {
    /// A stream whose sender's next byte has this number.
    pub fn new(next: u32) -> Self {
        Stream {
            next,
            shift: 0,
            edits: None,
            count: 0,
            line: [0; LINE_START],
            line_length: 0,
            resumed: false,
        }
    }

    /// A stream that another director followed up to somewhere: where its sender
    /// is, the first segment tells. What the receiver had not acknowledged of
    /// replaced text is lost.
    pub fn resumed(adjustment: &Adjustment) -> Self {
        Stream { shift: adjustment.delta as u32, resumed: true, ..Stream::new(0) }
    }

    /// What another director needs to go on.
    pub fn adjustment(&self) -> Adjustment {
        let shift = |edits: &[Edit]| {
            edits.iter().fold(self.shift, |shift, edit| shift.wrapping_add(edit.shift())) as i32
        };
        let edits = self.edits();
        let before = &edits[..edits.len().saturating_sub(1)];
        Adjustment {
            from: edits.last().map_or(self.next, Edit::end),
            delta: shift(edits),
            previous_delta: shift(before),
        }
    }

    /// Takes up where the sender is, should that not be known.
    pub fn catch_up(&mut self, sequence: u32) {
        if std::mem::take(&mut self.resumed) {
            self.next = sequence;
        }
    }

    /// The same from what the receiver acknowledges.
    pub fn catch_up_acknowledged(&mut self, acknowledged: u32) {
        self.catch_up(acknowledged.wrapping_sub(self.shift));
    }

    /// Number of the first byte that was not seen yet.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Whether the sender may have sent a segment with this number of late.
    pub fn is_near(&self, sequence: u32) -> bool {
        sequence.wrapping_sub(self.next).wrapping_add(MOST_AHEAD) <= 2 * MOST_AHEAD
    }

    /// Whether every byte has the same number on both sides.
    pub fn is_unchanged(&self) -> bool {
        self.count == 0 && self.shift == 0
    }

    fn edits(&self) -> &[Edit] {
        self.edits.as_deref().and_then(|edits| edits.get(..usize::from(self.count))).unwrap_or_default()
    }

    /// The receiver's number of the sender's byte `at`.
    pub fn map(&self, at: u32) -> u32 {
        let mut shift = self.shift;
        for edit in self.edits() {
            if !before(edit.start, at) {
                break;
            }
            if before(at, edit.end()) {
                let within = at.wrapping_sub(edit.start).min(edit.new_length());
                return edit.start.wrapping_add(shift).wrapping_add(within);
            }
            shift = shift.wrapping_add(edit.shift());
        }
        at.wrapping_add(shift)
    }

    /// The sender's number for an acknowledgment of the receiver: the last byte
    /// up to which it has all.
    pub fn unmap(&self, acknowledged: u32) -> u32 {
        let mut shift = self.shift;
        for edit in self.edits() {
            let start = edit.start.wrapping_add(shift);
            if !before(start, acknowledged) {
                break;
            }
            if before(acknowledged, start.wrapping_add(edit.new_length())) {
                let within = acknowledged.wrapping_sub(start).min(edit.length.saturating_sub(1));
                return edit.start.wrapping_add(within);
            }
            shift = shift.wrapping_add(edit.shift());
        }
        acknowledged.wrapping_sub(shift)
    }

    /// The sender's numbers for a block that the receiver has, from `left` up to
    /// `right` (RFC 2018); `None` if it covers no byte of the sender's.
    pub fn unmap_block(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let floor = self.unmap(left);
        let start = if self.map(floor) == left { floor } else { floor.wrapping_add(1) };
        let end = self.unmap(right);
        before(start, end).then_some((start, end))
    }

    /// Takes note that the receiver has everything before `acknowledged`, in its
    /// own numbers. It may have seen bytes that were not seen here, but not many.
    pub fn acknowledge(&mut self, acknowledged: u32) {
        if before(self.map(self.next).wrapping_add(MOST_AHEAD), acknowledged) {
            return;
        }
        while let Some(first) = self.edits().first().copied() {
            let end = first.end().wrapping_add(self.shift).wrapping_add(first.shift());
            if before(acknowledged, end) {
                break;
            }
            self.shift = self.shift.wrapping_add(first.shift());
            if let Some(edits) = &mut self.edits {
                edits.rotate_left(1);
            }
            self.count -= 1;
        }
        // What was seen by nobody here, but by the receiver.
        let reached = self.unmap(acknowledged);
        if before(self.next, reached) {
            self.next = reached;
            self.line_length = u16::MAX;
        }
    }

    /// Puts `text`, which is not empty, in the place of `length` bytes from `start` on, which lie
    /// behind all others that were replaced.
    pub fn replace(&mut self, start: u32, length: usize, text: Text) -> Result<(), Full> {
        let place = usize::from(self.count);
        const NONE: Edit = Edit { start: 0, length: 0, text: Text::EMPTY };
        let edits = self.edits.get_or_insert_with(|| Box::new([NONE; MOST_EDITS]));
        *edits.get_mut(place).ok_or(Full)? = Edit { start, length: length as u32, text };
        self.count += 1;
        Ok(())
    }

    /// Takes note of the bytes of a segment that are new, and tells `each` line
    /// that ends in them with its number: the next one must be among them, so
    /// that none is missed. A whole line for which `each` fails was not read, nor
    /// was what follows.
    pub fn read<E>(
        &mut self,
        sequence: u32,
        payload: &[u8],
        mut each: impl FnMut(&mut Stream, u32, Line<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let known = self.next.wrapping_sub(sequence) as usize;
        let Some(fresh) = payload.get(known..) else { return Ok(()) };
        for part in fresh.split_inclusive(|byte| *byte == b'\n') {
            let start = self.next;
            self.next = start.wrapping_add(part.len() as u32);
            let ends = part.ends_with(b"\n");
            if ends && self.line_length == 0 {
                each(self, start, Line::Whole(without_end(part))).inspect_err(|_| self.next = start)?;
                continue;
            }
            let kept = usize::from(self.line_length);
            if let Some(room) = self.line.get_mut(kept..) {
                let length = room.len().min(part.len());
                room[..length].copy_from_slice(&part[..length]);
            }
            self.line_length = self.line_length.saturating_add(part.len().min(usize::from(u16::MAX)) as u16);
            if ends {
                let line = self.line;
                let length = usize::from(self.line_length);
                self.line_length = 0;
                if let Some(line) = line.get(..length) {
                    each(self, start, Line::Parted(without_end(line)))?;
                }
            }
        }
        Ok(())
    }

    /// Appends what the receiver is to get of a segment: the bytes from
    /// `map(sequence)` to `map(sequence + payload.len())`.
    pub fn write(&self, sequence: u32, payload: &[u8], out: &mut Vec<u8>) {
        // Relative to the segment, as signed numbers, so that no wrap shows.
        let length = payload.len() as i64;
        let relative = |at: u32| i64::from(at.wrapping_sub(sequence) as i32);
        let mut at = 0;
        for edit in self.edits() {
            let (start, end) = (relative(edit.start), relative(edit.end()));
            if end <= at || start >= length {
                continue;
            }
            let text = edit.text.bytes();
            let within = |at: i64| ((at - start) as usize).min(text.len());
            let from = if at > start { within(at) } else { 0 };
            let to = if length >= end { text.len() } else { within(length) };
            if start > at {
                out.extend_from_slice(&payload[at as usize..start as usize]);
            }
            out.extend_from_slice(&text[from..to]);
            at = end.min(length);
        }
        out.extend_from_slice(&payload[at as usize..]);
    }
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The stream that the receiver is to get, by replacing in a vector.
    #[derive(Debug)]
    struct Model {
        sent: Vec<u8>,
        got: Vec<u8>,
        edits: Vec<(usize, usize, Text)>,
    }

    impl Model {
        fn new(sent: Vec<u8>, edits: Vec<(usize, usize, Text)>) -> Self {
            let mut got = Vec::new();
            let mut at = 0;
            for (start, length, text) in &edits {
                got.extend(&sent[at..*start]);
                got.extend(text.bytes());
                at = start + length;
            }
            got.extend(&sent[at..]);
            Model { sent, got, edits }
        }
    }

    fn a_model() -> impl Strategy<Value = Model> {
        let part = (0usize..20, 1usize..20, "[a-z]{1,30}");
        (prop::collection::vec(part, 0..=MOST_EDITS), 0usize..20).prop_map(|(parts, tail)| {
            let (mut sent, mut edits) = (Vec::new(), Vec::new());
            for (gap, length, text) in parts {
                sent.extend((0..gap).map(|n| b'A' + n as u8));
                edits.push((sent.len(), length, Text::of(&text)));
                sent.extend((0..length).map(|n| b'0' + n as u8 % 10));
            }
            sent.extend((0..tail).map(|n| b'A' + n as u8));
            Model::new(sent, edits)
        })
    }

    fn stream(model: &Model, first: u32) -> Stream {
        let mut stream = Stream::new(first);
        for (start, length, text) in &model.edits {
            stream.replace(first.wrapping_add(*start as u32), *length, *text).unwrap();
        }
        stream
    }

    proptest! {
        /// However the sender cuts and repeats its bytes, each of the receiver's
        /// has one value, and all of them come.
        #[test]
        fn any_segments_make_one_stream(
            model in a_model(),
            first in prop_oneof![Just(u32::MAX - 10), any::<u32>()],
            cuts in prop::collection::vec((0usize..200, 0usize..200), 0..30),
        ) {
            let stream = stream(&model, first);
            let total = model.sent.len();
            let mut received = BTreeMap::new();
            let cuts = cuts.into_iter().map(|(a, b)| (a.min(total), b.min(total)));
            let every = (0..total).map(|n| (n, n + 1));
            for (a, b) in cuts.chain(every).chain([(0, total)]) {
                let (start, end) = (a.min(b), a.max(b));
                let sequence = first.wrapping_add(start as u32);
                let mut out = Vec::new();
                stream.write(sequence, &model.sent[start..end], &mut out);
                let mapped = stream.map(sequence);
                prop_assert_eq!(mapped.wrapping_add(out.len() as u32), stream.map(first.wrapping_add(end as u32)));
                for (n, byte) in out.into_iter().enumerate() {
                    let place = mapped.wrapping_sub(first) as usize + n;
                    prop_assert_eq!(*received.entry(place).or_insert(byte), byte);
                }
            }
            prop_assert_eq!(received.into_values().collect::<Vec<_>>(), model.got);
        }

        /// An acknowledgment never covers a byte whose text the receiver has not,
        /// and always all of which it has the text.
        #[test]
        fn acknowledgments_are_the_reverse(model in a_model(), first: u32, at in 0usize..300) {
            let mut stream = stream(&model, first);
            let at = first.wrapping_add(at.min(model.got.len()) as u32);
            let back = stream.unmap(at);
            prop_assert!(!before(at, stream.map(back)), "{back} is not there yet");
            prop_assert!(back.wrapping_sub(first) as usize == model.sent.len() || before(at, stream.map(back.wrapping_add(1))));

            // Forgetting what was acknowledged changes nothing for what was not.
            let old = stream.clone();
            stream.acknowledge(at);
            for n in 0..=model.sent.len() as u32 {
                let place = first.wrapping_add(n);
                if !before(old.map(place), at) && !before(place, back) {
                    prop_assert_eq!(stream.map(place), old.map(place));
                }
            }
            for n in 0..=model.got.len() as u32 {
                let place = first.wrapping_add(n);
                if !before(place, at) {
                    prop_assert_eq!(stream.unmap(place), old.unmap(place));
                }
            }
        }

        #[test]
        fn blocks_cover_what_the_receiver_has(model in a_model(), first: u32, a in 0usize..300, b in 0usize..300) {
            let stream = stream(&model, first);
            let [a, b] = [a, b].map(|n| first.wrapping_add(n.min(model.got.len()) as u32));
            let (left, right) = if before(a, b) { (a, b) } else { (b, a) };
            if let Some((start, end)) = stream.unmap_block(left, right) {
                prop_assert!(before(start, end));
                prop_assert!(!before(stream.map(start), left) && !before(right, stream.map(end)));
            }
        }

        /// Lines are told once, in order, whatever segments they come in; whole
        /// ones where they begin.
        #[test]
        fn lines_are_told_once(lines in prop::collection::vec("[a-z]{0,20}\r?\n", 0..8), cuts in prop::collection::vec(0usize..160, 0..10)) {
            let sent = lines.concat().into_bytes();
            let mut stream = Stream::new(7);
            let mut told = Vec::new();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(sent.len())).collect();
            cuts.push(sent.len());
            for cut in cuts {
                // Each segment begins somewhere in what was sent already.
                let start = (stream.next().wrapping_sub(7) as usize).min(cut).saturating_sub(cut % 3);
                stream.read(7 + start as u32, &sent[start..cut], |_, at, line| {
                    if let Line::Whole(line) = line {
                        assert_eq!(&sent[at as usize - 7..][..line.len()], line);
                    }
                    let (Line::Whole(line) | Line::Parted(line)) = line;
                    told.push(line.to_vec());
                    Ok::<(), ()>(())
                }).unwrap();
            }
            prop_assert_eq!(stream.next(), 7 + sent.len() as u32);
            // Long ones that came in parts are not told.
            let mut left = lines.iter().map(|line| line.trim_end().as_bytes());
            for line in &told {
                prop_assert!(left.any(|sent| sent == line), "{line:?} in {lines:?}");
            }
            let missing = lines.len() - told.len();
            prop_assert!(missing <= lines.iter().filter(|line| line.len() > LINE_START).count());
        }
    }

    #[test]
    fn edits_are_bounded_and_come_free() {
        let mut stream = Stream::new(100);
        for n in 0..MOST_EDITS as u32 {
            stream.replace(100 + 10 * n, 4, Text::of("longer text")).unwrap();
        }
        assert_eq!(stream.replace(200, 4, Text::of("x")), Err(Full));
        assert_eq!(stream.map(200), 228);
        stream.acknowledge(stream.map(104));
        assert_eq!(stream.map(200), 228);
        stream.replace(200, 4, Text::of("x")).unwrap();
        stream.acknowledge(stream.map(204));
        assert_eq!((stream.map(300), stream.unmap(325)), (325, 300));
        assert!(!stream.is_unchanged());
    }

    #[test]
    fn what_nobody_can_have_is_not_acknowledged() {
        let mut stream = Stream::new(100);
        stream.replace(100, 6, Text::of("longer text")).unwrap();
        for n in 1..16 {
            stream.acknowledge((100 + MOST_AHEAD).wrapping_add(n << 27));
        }
        assert_eq!((stream.next(), stream.map(106)), (100, 111));
        assert!(stream.count == 1, "it may be sent again");
        for (sequence, near) in
            [(100, true), (99, true), (100 + MOST_AHEAD, true), (1 << 30, false), (1 << 31, false)]
        {
            assert_eq!(stream.is_near(sequence), near, "{sequence}");
        }
    }

    /// One who joins late learns from acknowledgments how far the sender is.
    #[test]
    fn acknowledgments_tell_what_was_sent() {
        let mut stream = Stream::new(100);
        stream.acknowledge(150);
        assert_eq!(stream.next(), 150);
        let mut told = 0;
        let count = |_: &mut Stream, _, _: Line<'_>| {
            told += 1;
            Ok::<(), ()>(())
        };
        // So far ahead, somebody guesses.
        stream.acknowledge(150 + MOST_AHEAD + 1);
        assert_eq!(stream.next(), 150);
        // It may be in the middle of a line.
        stream.read(150, b"PASV\r\n", count).unwrap();
        assert_eq!(told, 0);
        stream
            .read(156, b"PASV\r\n", |_, at, line| {
                assert_eq!((at, line), (156, Line::Whole(b"PASV")));
                Ok::<(), ()>(())
            })
            .unwrap();
    }
}
