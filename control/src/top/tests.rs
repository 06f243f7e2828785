//! What the terminal shows.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::draw::draw;
use super::screen::{Next, Screen};
use crate::observe::sample::Sample;

struct Shown {
    sample: Sample,
    screen: Screen,
    now: Instant,
}

impl Shown {
    fn new(services: usize) -> Self {
        let sample = Sample::new(services, 2);
        let now = Instant::now();
        sample.observatory.sample(now);
        sample.fail();
        let mut shown = Shown { sample, screen: Screen::default(), now };
        shown.look();
        shown
    }

    fn look(&mut self) {
        self.now += Duration::from_secs(1);
        self.sample.observatory.sample(self.now);
        self.screen.show(self.sample.observatory.overview(self.screen.query()), self.now);
    }

    fn press(&mut self, code: KeyCode) -> Next {
        let next = self.screen.press(KeyEvent::new(code, KeyModifiers::NONE));
        if next == Next::Look {
            self.look();
        }
        next
    }

    fn draw(&self, width: u16, height: u16) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &self.screen)).unwrap();
        terminal
    }

    fn text(&self) -> String {
        text(&self.draw(120, 30))
    }
}

fn text(terminal: &Terminal<TestBackend>) -> String {
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(buffer.area.width));
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned() + "\n")
        .collect()
}

/// A picture of the screen, for people.
fn svg(terminal: &Terminal<TestBackend>) -> String {
    let buffer = terminal.backend().buffer();
    let (width, height) = (buffer.area.width, buffer.area.height);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"monospace\" \
         font-size=\"14\"><rect width=\"100%\" height=\"100%\" fill=\"#10161d\"/>\n",
        width * 9,
        height * 18
    );
    for y in 0..height {
        for x in 0..width {
            let cell = &buffer[(x, y)];
            let reversed = cell.modifier.contains(Modifier::REVERSED);
            let ink = match cell.fg {
                Color::Red => "#f0806c",
                Color::Green => "#58c48a",
                Color::Black => "#10161d",
                _ if reversed => "#10161d",
                _ => "#e4ebf2",
            };
            if reversed || cell.bg == Color::Cyan {
                let back = if reversed { "#e4ebf2" } else { "#5ac8d8" };
                let _ = writeln!(
                    out,
                    "<rect x=\"{}\" y=\"{}\" width=\"9\" height=\"18\" fill=\"{back}\"/>",
                    x * 9,
                    y * 18
                );
            }
            let symbol = match cell.symbol() {
                " " => continue,
                "<" => "&lt;",
                "&" => "&amp;",
                other => other,
            };
            let _ =
                writeln!(out, "<text x=\"{}\" y=\"{}\" fill=\"{ink}\">{symbol}</text>", x * 9, y * 18 + 14);
        }
    }
    out + "</svg>\n"
}

fn screenshots() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    let directory = target.join("screenshots");
    fs::create_dir_all(&directory).unwrap();
    directory
}

#[test]
fn services_and_workers_are_shown_busiest_first() {
    let mut shown = Shown::new(5);
    shown.sample.traffic(2, 0, 700);
    shown.sample.traffic(1, 1, 30);
    shown.look();
    let text = shown.text();
    let line = |start: &str| {
        let found = text.lines().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("{start} is not in\n{text}")).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(line("worker 0"), ["worker", "0", "14.0k", "11.2M", "700", "700", "700", "0", "0"]);
    assert_eq!(line("worker 1"), ["worker", "1", "600", "480k", "30", "30", "30", "0", "0"]);
    assert_eq!(
        line("tcp 192.0.2.10:3"),
        ["tcp", "192.0.2.10:3", "wlc", "14.0k", "11.2M", "700", "700", "700", "2"]
    );
    let places: Vec<_> = [3, 2, 1].map(|port| text.find(&format!("192.0.2.10:{port} ")).unwrap()).into();
    assert!(places.is_sorted(), "{text}");
    assert!(text.contains("dropped since start: no_server 730"), "{text}");
    assert!(text.contains("1 of 3"), "servers that are down: {text}");
}

#[test]
fn an_open_service_shows_its_servers() {
    let mut shown = Shown::new(3);
    shown.look();
    assert_eq!(shown.press(KeyCode::Enter), Next::Look);
    shown.sample.traffic(0, 0, 50);
    shown.look();
    let terminal = shown.draw(120, 30);
    let text = text(&terminal);
    assert!(text.contains("Server of tcp 192.0.2.10:1"), "{text}");
    let server = text.lines().find(|line| line.starts_with("10.0.0.1:8080")).unwrap();
    let words: Vec<_> = server.split_whitespace().collect();
    assert_eq!(words[..8], ["10.0.0.1:8080", "fullnat", "1", "1.00k", "50", "50", "0", "50"]);
    assert!(server.contains("down: status 503"), "{server}");
    fs::write(screenshots().join("top.txt"), &text).unwrap();
    fs::write(screenshots().join("top.svg"), svg(&terminal)).unwrap();

    assert_eq!(shown.press(KeyCode::Esc), Next::Look);
    assert!(!shown.text().contains("Server of"));
}

#[test]
fn keys_sort_search_choose_and_quit() {
    let mut shown = Shown::new(20);
    assert_eq!(shown.press(KeyCode::Char('s')), Next::Look);
    assert!(shown.text().contains("services by bits"));
    assert_eq!(shown.press(KeyCode::Down), Next::Draw);
    assert_eq!(shown.screen.selected, 1);
    shown.press(KeyCode::Char('/'));
    for c in ":12".chars() {
        assert_eq!(shown.press(KeyCode::Char(c)), Next::Look);
    }
    assert!(shown.text().contains("search: :12_"));
    shown.press(KeyCode::Enter);
    assert_eq!(shown.screen.selected, 0, "it follows what is left");
    assert!(shown.text().contains("1 match \":12\""), "{}", shown.text());
    assert_eq!(shown.press(KeyCode::PageDown), Next::Draw, "there is no other page");
    assert_eq!(shown.press(KeyCode::Char('q')), Next::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(shown.screen.press(control_c), Next::Quit);
}

#[test]
fn it_says_when_the_director_is_gone_and_fits_any_terminal() {
    let mut shown = Shown::new(300);
    shown.screen.fail("no director answers at /run/x".into());
    assert!(shown.text().contains("no director answers at /run/x"));
    for (width, height) in [(1, 1), (20, 5), (80, 24), (400, 100)] {
        shown.draw(width, height);
    }
}
