//! The screen as it is drawn.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use super::format::{duration, short};
use super::screen::Screen;
use crate::observe::{Overview, RatePoint, ServerState, ServerView, ServiceView};
use crate::rules::Method;

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let Some(overview) = &screen.overview else {
        let text = screen.error.as_deref().unwrap_or("asking the director");
        return frame.render_widget(Paragraph::new(text), frame.area());
    };
    let workers = overview.workers.len().min(8) as u16 + 1;
    let opened = overview.services.list.iter().find(|service| !service.list.is_empty());
    let servers = opened.map_or(0, |service| service.list.len().min(12) as u16 + 2);
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(workers),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(servers),
        Constraint::Length(2),
    ])
    .split(frame.area());
    frame.render_widget(heading(overview, screen), areas[0]);
    frame.render_widget(worker_table(overview), areas[1]);
    services(frame, areas[3], overview, screen);
    if let Some(service) = opened {
        frame.render_widget(server_table(service, screen), areas[4]);
    }
    frame.render_widget(footer(overview, screen), areas[5]);
}

fn title_style() -> Style {
    Style::new().fg(Color::Black).bg(Color::Cyan)
}

fn heading(overview: &Overview, screen: &Screen) -> Paragraph<'static> {
    let Overview { version, uptime, rate, connections, capacity, services, .. } = overview;
    let first = Line::from(vec![
        Span::from(format!("sluice {version}")).bold(),
        Span::from(format!(", up {}, ", duration(*uptime))),
        Span::from(format!("{} of {} connections, ", short(*connections as f64), short(*capacity as f64))),
        Span::from(format!("{} services by {}", services.total, screen.sorted_by())),
    ]);
    let second = Line::from(vec![
        Span::from(format!("{} packets/s, {}bit/s, ", short(rate.packets.into()), short(rate.bits.into()))),
        Span::from(format!("{} new/s, ", short(rate.connections.into()))),
        drops_span(format!("{} drops/s", short(rate.drops.into())), rate.drops.into()),
    ]);
    Paragraph::new(vec![first, second])
}

fn drops_span(text: String, drops: f64) -> Span<'static> {
    if drops > 0.0 { Span::from(text).red() } else { Span::from(text) }
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

fn rates(rate: RatePoint) -> [Cell<'static>; 4] {
    let drops = drops_span(short(rate.drops.into()), rate.drops.into());
    [
        right(short(rate.packets.into())),
        right(short(rate.bits.into())),
        right(short(rate.connections.into())),
        Cell::from(Line::from(drops).right_aligned()),
    ]
}

fn titles<const N: usize>(left: usize, names: [&'static str; N]) -> Row<'static> {
    let cell = |(place, name): (usize, &'static str)| match place < left {
        true => Cell::from(name),
        false => right(name.to_owned()),
    };
    Row::new(names.into_iter().enumerate().map(cell)).style(title_style())
}

const RATE_WIDTHS: [Constraint; 4] = [Constraint::Length(9); 4];

fn worker_table(overview: &Overview) -> Table<'static> {
    let rows = overview.workers.iter().enumerate().map(|(number, worker)| {
        let mut cells = vec![Cell::from(format!("worker {number}"))];
        cells.extend(rates(worker.rate));
        for count in [worker.connections, worker.punted, worker.handed] {
            cells.push(right(short(count as f64)));
        }
        Row::new(cells)
    });
    let mut widths = vec![Constraint::Length(10)];
    widths.extend(RATE_WIDTHS);
    widths.extend([Constraint::Length(11), Constraint::Length(9), Constraint::Length(11)]);
    let names =
        ["Worker", "Packets/s", "Bits/s", "New/s", "Drops/s", "Connections", "To kernel", "Handed over"];
    Table::new(rows, widths).header(titles(1, names))
}

fn services(frame: &mut Frame<'_>, area: Rect, overview: &Overview, screen: &Screen) {
    let rows = overview.services.list.iter().map(|service| {
        let ServiceView { name, scheduler, rate, connections, servers, down, .. } = service;
        let mut cells = vec![Cell::from(name.clone()), Cell::from(scheduler.clone())];
        cells.extend(rates(*rate));
        cells.push(right(short(*connections as f64)));
        let up = format!("{} of {servers}", servers - down);
        cells.push(if *down > 0 { right(up).red() } else { right(servers.to_string()) });
        Row::new(cells)
    });
    let mut widths = vec![Constraint::Min(24), Constraint::Length(6)];
    widths.extend(RATE_WIDTHS);
    widths.extend([Constraint::Length(11), Constraint::Length(9)]);
    let names = ["Service", "Sched", "Packets/s", "Bits/s", "New/s", "Drops/s", "Connections", "Servers"];
    let table = Table::new(rows, widths)
        .header(titles(2, names))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(Some(screen.selected));
    frame.render_stateful_widget(table, area, &mut state);
}

fn server_table(service: &ServiceView, screen: &Screen) -> Table<'static> {
    let rows = service.list.iter().map(|server| {
        let ServerView { address, method, weight, active, inactive, totals, health } = server;
        let (packets, connections) = screen.server_rates.get(address).copied().unwrap_or_default();
        let method = match method {
            Some(Method::Nat) => "nat",
            Some(Method::FullNat) => "fullnat",
            Some(Method::Dr) => "dr",
            Some(Method::Tun) => "tun",
            None => "out",
        };
        let health = match health {
            Some(health) if health.state == ServerState::Up => Span::from("up").green(),
            Some(health) => Span::from(format!("{}: {}", health.state.name(), health.reason)).red(),
            None => Span::from("not checked"),
        };
        Row::new(vec![
            Cell::from(address.clone()),
            Cell::from(method),
            right(weight.to_string()),
            right(short(packets)),
            right(short(connections)),
            right(short(*active as f64)),
            right(short(*inactive as f64)),
            right(short(totals.drops as f64)),
            Cell::from(health),
        ])
    });
    let widths = [
        Constraint::Min(22),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Min(12),
    ];
    let header = [
        Cell::from(format!("Server of {}", service.name)),
        Cell::from("Method"),
        right("Weight".into()),
        right("Packets/s".into()),
        right("New/s".into()),
        right("Active".into()),
        right("Inactive".into()),
        right("Drops".into()),
        Cell::from("Health"),
    ];
    Table::new(rows, widths).header(Row::new(header).style(title_style()))
}

fn footer(overview: &Overview, screen: &Screen) -> Paragraph<'static> {
    let drops =
        overview.drops.iter().take(6).map(|drop| format!("{} {}", drop.reason, short(drop.count as f64)));
    let drops = drops.collect::<Vec<_>>().join(", ");
    let first = match &screen.error {
        Some(error) => Line::from(error.replace('\n', " ")).red(),
        None if drops.is_empty() => Line::from("nothing dropped since start"),
        None => Line::from(format!("dropped since start: {drops}")),
    };
    let search = &screen.query().search;
    let second = if screen.searching {
        format!("search: {search}_  (Enter keeps it, Esc ends it)")
    } else {
        let found = match search.is_empty() {
            true => String::new(),
            false => format!("{} match {search:?}; ", overview.services.matched),
        };
        format!("{found}q quit, up/down choose, Enter servers, s sort, / search, PgUp/PgDn turn")
    };
    Paragraph::new(vec![first, Line::from(second).dim()])
}
