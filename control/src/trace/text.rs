//! A report for people.

use std::fmt::Write;

use super::report::{Server, TraceQuery, TraceReport, Way, WayState, WorkerReport};

/// Widths of the words in front.
const FIRST: usize = 10;

/// The report, line by line.
pub(super) fn text(query: &TraceQuery, report: &TraceReport) -> String {
    let mut lines = Lines(String::new());
    let TraceQuery { protocol, source, destination, .. } = query;
    lines.add(
        "packet",
        &format!("{} {source} -> {destination}, comes by {}", protocol.name(), report.interface),
    );
    let place = match report.queue {
        Some(queue) => format!("; it lands on queue {queue}"),
        None if report.workers.len() > 1 => "; which worker's queue it lands on cannot be told".into(),
        None => String::new(),
    };
    let whose = if report.steered { "to the workers" } else { "to the kernel" };
    lines.add(
        "steering",
        &format!("{whose}: {}{}", report.steering, if report.steered { &place } else { "" }),
    );
    if report.mark != 0 {
        lines.add("mark", &report.mark.to_string());
    }
    match &report.service {
        Some(service) => {
            let persistence = service.persistence.map(|seconds| format!(", persistent for {seconds} s"));
            let persistence = persistence.unwrap_or_default();
            lines.add("service", &format!("{}, by {}", service.name, service.found_by));
            lines.add("scheduler", &format!("{}{persistence}", service.scheduler));
            if !service.local_addresses.is_empty() {
                let lips: Vec<_> = service.local_addresses.iter().map(ToString::to_string).collect();
                lines.add("local", &format!("{}, in turn", lips.join(", ")));
            }
            for each in &service.servers {
                lines.add("server", &server(each));
            }
            if service.servers.is_empty() {
                lines.add("server", "none");
            }
        }
        None => lines.add("service", "none"),
    }
    // Where the worker is known, the others do not matter.
    let matter = |worker: &&WorkerReport| report.queue.is_none_or(|queue| queue == worker.worker);
    for worker in report.workers.iter().filter(matter) {
        lines.worker(worker);
    }
    if report.queue.is_none() && report.workers.len() > 1 {
        lines.add("", "Each worker has a scheduler of its own: which server it is depends on the worker.");
    }
    lines.0
}

struct Lines(String);

impl Lines {
    fn add(&mut self, what: &str, text: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "{what:FIRST$} {text}");
    }

    fn worker(&mut self, worker: &WorkerReport) {
        self.add(&format!("worker {}", worker.worker), &worker.text);
        let parts = [("rewriting", worker.rewriting.clone()), ("remedy", worker.remedy.clone())];
        for (what, text) in parts {
            if let Some(text) = text {
                self.add(&format!("  {what}"), &text);
            }
        }
        if let Some(template) = &worker.template {
            self.add("  template", &format!("of {}, expires in {} s", template.client.0, template.expires));
        }
        if let Some(forth) = &worker.way {
            self.add("  way", &way(forth));
        }
        if let Some(back) = &worker.reply_way {
            self.add("  replies", &way(back));
        }
    }
}

fn server(server: &Server) -> String {
    let Server { server: at, method, weight, active, inactive, passed_over, health } = server;
    let mut text = format!("{at} {}, weight {weight}, {active} active, {inactive} inactive", method.name());
    if let Some(health) = health {
        text += &format!(", {health}");
    }
    if let Some(why) = passed_over {
        text += &format!("; passed over: {why}");
    }
    text
}

fn way(way: &Way) -> String {
    let mut text = format!("to {}", way.to);
    if let Some(route) = &way.route {
        text += &format!(" by route {route}");
    }
    if let Some(gateway) = way.gateway {
        text += &format!(" via {gateway}");
    }
    if let Some(interface) = &way.interface {
        text += &format!(" on {interface}");
    }
    if let Some(vlan) = way.vlan {
        text += &format!(" in VLAN {vlan}");
    }
    text += &match (way.state, &way.mac) {
        (WayState::Known, Some(mac)) => format!(", MAC {mac}"),
        (WayState::Known | WayState::Unresolved, _) => {
            ", MAC not known: the first packets wait for it, a second at most".into()
        }
        (WayState::Foreign, _) => {
            ": an interface that is not the director's, or an address of its own".into()
        }
        (WayState::NoRoute, _) => ": no route".into(),
    };
    if let Some(mtu) = way.mtu {
        text += &format!(", MTU {mtu}");
    }
    text
}
