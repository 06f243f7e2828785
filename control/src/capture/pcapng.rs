//! Captures as files: pcapng (draft-ietf-opsawg-pcapng).

use std::io::{self, Write};

use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter, RawBlock};
use pcap_file::{DataLink, Endianness, PcapError};

use super::part::CapturedPacket;

/// Nanoseconds, as `if_tsresol` says it: a negative power of 10.
const NANOSECONDS: u8 = 9;

/// `epb_flags`: which way the packet went (section 4.3.1).
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Kinds of blocks (section 4). These are put together here: the library knows
/// neither the number of a packet nor its queue, and has the halves of a time in
/// statistics the wrong way round.
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

/// Kinds of options: of every block, of a packet, and of statistics.
const END_OF_OPTIONS: u16 = 0;
const COMMENT: u16 = 1;
const FLAGS: u16 = 2;
const NUMBER: u16 = 5;
const QUEUE: u16 = 6;
const DROPPED: u16 = 5;

/// The body of a block, in the byte order of this machine.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn number(mut self, number: u32) -> Self {
        self.0.extend(number.to_ne_bytes());
        self
    }

    /// The high half comes first, whatever the byte order.
    fn time(self, time: u64) -> Self {
        self.number((time >> 32) as u32).number(time as u32)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn option(mut self, kind: u16, value: &[u8]) -> Self {
        // A comment is short, as are the numbers.
        let value = &value[..value.len().min(u16::MAX.into())];
        self.0.extend(kind.to_ne_bytes());
        self.0.extend((value.len() as u16).to_ne_bytes());
        self.bytes(value)
    }
}

/// A file that is being written: an interface of the file for each of the
/// director's.
pub(super) struct File<W: Write> {
    writer: PcapNgWriter<W>,
    interfaces: Vec<String>,
    last: u64,
}

impl<W: Write> File<W> {
    /// Begins a file whose packets have at most `snap` bytes.
    pub(super) fn begin(to: W, interfaces: &[String], snap: usize) -> io::Result<Self> {
        let program = format!("sluice {}", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![SectionHeaderOption::UserApplication(program.into())],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(to, section).map_err(failed)?;
        let mut file = File { writer, interfaces: interfaces.to_vec(), last: 0 };
        for name in interfaces {
            let block = InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: snap as u32,
                options: vec![
                    InterfaceDescriptionOption::IfName(name.as_str().into()),
                    InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                ],
            };
            file.writer.write_block(&block.into_block()).map_err(failed)?;
        }
        Ok(file)
    }

    /// Adds a packet.
    pub(super) fn add(&mut self, packet: &CapturedPacket) -> io::Result<()> {
        let Some(interface) = self.interfaces.iter().position(|name| *name == packet.interface) else {
            return Err(io::Error::other(format!(
                "a packet of {:?}, which was not named before",
                packet.interface
            )));
        };
        let bytes = packet.bytes().map_err(io::Error::other)?;
        let direction = if packet.seen.is_inbound() { INBOUND } else { OUTBOUND };
        self.last = self.last.max(packet.time_ns);
        let body = Body::default()
            .number(interface as u32)
            .time(packet.time_ns)
            .number(bytes.len() as u32)
            .number(packet.length)
            .bytes(&bytes)
            .option(COMMENT, packet.comment().as_bytes())
            .option(FLAGS, &direction.to_ne_bytes())
            .option(NUMBER, &packet.packet.to_ne_bytes())
            .option(QUEUE, &u32::from(packet.worker).to_ne_bytes());
        self.write(PACKET, body)
    }

    /// Ends the file with what was lost by interface, and gives back what it was
    /// written to.
    pub(super) fn end(mut self, lost: &[u64]) -> io::Result<W> {
        for interface in 0..self.interfaces.len() {
            let lost = lost.get(interface).copied().unwrap_or(0);
            let body = Body::default().number(interface as u32).time(self.last);
            self.write(STATISTICS, body.option(DROPPED, &lost.to_ne_bytes()))?;
        }
        let mut writer = self.writer.into_inner();
        writer.flush()?;
        Ok(writer)
    }

    /// Passes on what was written so far.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    fn write(&mut self, kind: u32, body: Body) -> io::Result<()> {
        let body = body.option(END_OF_OPTIONS, &[]).0;
        // Its kind and both lengths go with it.
        let length = body.len() as u32 + 12;
        let block = RawBlock { type_: kind, initial_len: length, body: body.into(), trailer_len: length };
        self.writer.write_raw_block(&block).map(drop).map_err(failed)
    }
}

/// The library's error as the one that caused it, so that a reader which has
/// seen enough is known as such.
fn failed(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
    use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;
    use crate::capture::Seen;

    fn packet(interface: &str, seen: Seen) -> CapturedPacket {
        CapturedPacket {
            time_ns: 1_795_264_285_000_000_007,
            packet: 1 << 48 | 5,
            worker: 1,
            interface: interface.into(),
            seen,
            reason: (seen == Seen::Refused).then(|| "no_server".into()),
            length: 60,
            connection: None,
            data: "AAECAwQ=".into(),
        }
    }

    #[test]
    fn a_file_has_interfaces_packets_and_what_was_lost() {
        let names = ["eth0".to_owned(), "eth1".to_owned()];
        let mut file = File::begin(Vec::new(), &names, 4096).unwrap();
        file.add(&packet("eth1", Seen::Sent)).unwrap();
        file.add(&packet("eth0", Seen::Refused)).unwrap();
        let error = file.add(&packet("eth2", Seen::Sent)).unwrap_err();
        assert!(error.to_string().contains("\"eth2\""), "{error}");
        let bytes = file.end(&[0, 7]).unwrap();

        let mut reader = PcapNgReader::new(bytes.as_slice()).unwrap();
        let mut blocks = Vec::new();
        while let Some(block) = reader.next_block() {
            blocks.push(block.unwrap().into_owned());
        }
        let [
            _,
            _,
            Block::EnhancedPacket(sent),
            Block::EnhancedPacket(refused),
            _,
            Block::InterfaceStatistics(end),
        ] = blocks.as_slice()
        else {
            panic!("{blocks:?}")
        };
        assert_eq!((sent.interface_id, sent.original_len, &sent.data[..]), (1, 60, &[0, 1, 2, 3, 4][..]));
        assert_eq!(sent.timestamp, Duration::from_nanos(1_795_264_285_000_000_007));
        assert!(sent.options.contains(&EnhancedPacketOption::Flags(OUTBOUND)));
        assert!(refused.options.contains(&EnhancedPacketOption::Flags(INBOUND)));
        let comment = EnhancedPacketOption::Comment("worker 1: received, dropped (no_server)".into());
        assert!(refused.options.contains(&comment), "{:?}", refused.options);
        assert_eq!(end.options, [InterfaceStatisticsOption::IsbIfDrop(7)]);
    }
}
