//! What is shown, and what keys do to it.

use std::collections::HashMap;
use std::time::Instant;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::observe::{MAX_LISTED, Overview, OverviewQuery, ServerView, Sort};

/// Longest text to search for.
const MAX_SEARCH: usize = 64;

const SORTS: [(Sort, &str); 6] = [
    (Sort::Packets, "packets"),
    (Sort::Bits, "bits"),
    (Sort::Connections, "new connections"),
    (Sort::Drops, "drops"),
    (Sort::Active, "connections"),
    (Sort::Name, "name"),
];

/// What has to follow a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// The end
    Quit,
    /// The director has to be asked again
    Look,
    /// Only the screen changed
    Draw,
}

/// Packets and connections since start, by address.
type ServerTotals = HashMap<String, (u64, u64)>;

/// Everything that is drawn.
#[derive(Debug, Default)]
pub(super) struct Screen {
    query: OverviewQuery,
    pub(super) overview: Option<Overview>,
    pub(super) selected: usize,
    pub(super) searching: bool,
    pub(super) error: Option<String>,
    /// Totals of the open service's servers, to make rates of
    before: Option<(Instant, ServerTotals)>,
    /// Packets and new connections a second of the open service's servers
    pub(super) server_rates: HashMap<String, (f64, f64)>,
}

impl Screen {
    pub(super) fn query(&self) -> &OverviewQuery {
        &self.query
    }

    pub(super) fn sorted_by(&self) -> &'static str {
        SORTS.iter().find(|(sort, _)| *sort == self.query.sort).map_or("?", |(_, name)| name)
    }

    /// Takes an answer of the director.
    pub(super) fn show(&mut self, overview: Overview, now: Instant) {
        let list = &overview.services.list;
        self.selected = self.selected.min(list.len().saturating_sub(1));
        let opened = list.iter().find(|service| !service.list.is_empty());
        let totals: ServerTotals = opened
            .map_or(&[][..], |service| &service.list)
            .iter()
            .map(|ServerView { address, totals, .. }| (address.clone(), (totals.packets, totals.connections)))
            .collect();
        self.server_rates = match &self.before {
            Some((then, before)) if *then < now => {
                let seconds = now.duration_since(*then).as_secs_f64();
                let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
                totals
                    .iter()
                    .filter_map(|(address, (packets, connections))| {
                        let before = before.get(address)?;
                        Some((address.clone(), (rate(*packets, before.0), rate(*connections, before.1))))
                    })
                    .collect()
            }
            _ => HashMap::new(),
        };
        self.before = Some((now, totals));
        self.overview = Some(overview);
        self.error = None;
    }

    /// Says that there is no answer; what was seen last stays.
    pub(super) fn fail(&mut self, error: String) {
        self.error = Some(error);
    }

    pub(super) fn press(&mut self, key: KeyEvent) -> Next {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Next::Quit } else { Next::Draw };
        }
        if self.searching {
            return self.press_searching(key.code);
        }
        let count = self.overview.as_ref().map_or(0, |overview| overview.services.list.len());
        match key.code {
            KeyCode::Char('q') => Next::Quit,
            KeyCode::Esc if self.query.open.is_none() => Next::Quit,
            KeyCode::Esc => {
                self.query.open = None;
                Next::Look
            }
            KeyCode::Char('s') => {
                let place = SORTS.iter().position(|(sort, _)| *sort == self.query.sort).unwrap_or(0);
                self.query.sort = SORTS[(place + 1) % SORTS.len()].0;
                self.query.offset = 0;
                Next::Look
            }
            KeyCode::Char('/') => {
                self.searching = true;
                Next::Draw
            }
            KeyCode::Up | KeyCode::Char('k') => {
                self.selected = self.selected.saturating_sub(1);
                Next::Draw
            }
            KeyCode::Down | KeyCode::Char('j') => {
                self.selected = (self.selected + 1).min(count.saturating_sub(1));
                Next::Draw
            }
            KeyCode::PageDown | KeyCode::PageUp => self.turn(key.code == KeyCode::PageDown),
            KeyCode::Enter => {
                let overview = self.overview.as_ref();
                let name = overview.and_then(|o| o.services.list.get(self.selected)).map(|s| s.name.clone());
                self.query.open = name.filter(|name| self.query.open.as_ref() != Some(name));
                self.before = None;
                Next::Look
            }
            _ => Next::Draw,
        }
    }

    fn turn(&mut self, forward: bool) -> Next {
        let matched = self.overview.as_ref().map_or(0, |overview| overview.services.matched);
        let offset = match forward {
            true => self.query.offset + MAX_LISTED,
            false => self.query.offset.saturating_sub(MAX_LISTED),
        };
        if offset >= matched.max(1) {
            return Next::Draw;
        }
        self.query.offset = offset;
        self.selected = 0;
        Next::Look
    }

    fn press_searching(&mut self, code: KeyCode) -> Next {
        match code {
            KeyCode::Enter => self.searching = false,
            KeyCode::Esc => {
                self.searching = false;
                self.query.search.clear();
            }
            KeyCode::Backspace => _ = self.query.search.pop(),
            KeyCode::Char(c) if self.query.search.len() < MAX_SEARCH => self.query.search.push(c),
            _ => return Next::Draw,
        }
        self.query.offset = 0;
        Next::Look
    }
}
