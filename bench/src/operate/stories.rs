//! What operating a director is, as stories. To add one, add an entry here; the tests that it names have to exist.

use super::{Story, Where};

const fn end_to_end(test: &'static str) -> Where {
    Where { package: "sluice-bench", target: test }
}

const CONTROL: Where = Where { package: "sluice-control", target: "lib" };

/// All stories, in the order in which they run. A name of a test stands for all tests that have it in theirs.
pub const STORIES: &[Story] = &[
    Story {
        name: "health-page",
        shows: "a page answers OK, then something else, then its server dies and comes back",
        place: end_to_end("health"),
        tests: &["a_page_says_how_a_server_is"],
    },
    Story {
        name: "health-ipvsadm",
        shows: "what ipvsadm changes while servers are down, and the sorry server",
        place: end_to_end("health"),
        tests: &["ipvsadm_and_health_go_together"],
    },
    Story {
        name: "health-reload",
        shows: "reloads with health checks: who is out stays out, weights are compared as configured",
        place: end_to_end("health"),
        tests: &["a_reload_and_health_go_together"],
    },
    Story {
        name: "health-hostile",
        shows: "servers that drip, never end, redirect, say nothing or speak wrong TLS: bounded time and memory",
        place: end_to_end("health_hostile"),
        tests: &["hostile_servers_cost_neither_time_nor_memory"],
    },
    Story {
        name: "health-vip",
        shows: "dr and tun servers are asked for the VIP itself: one without it is down, though it answers",
        place: end_to_end("health_vip"),
        tests: &["without_the_vip", "a_check_that_goes_another_way_fails"],
    },
    Story {
        name: "health-kinds",
        shows: "TCP, HTTP, HTTPS, gRPC, DNS, UDP, ICMP and commands, with good servers and bad ones",
        place: CONTROL,
        tests: &["health::"],
    },
    Story {
        name: "health-10000",
        shows: "10 000 servers checked every 2 s take less than half a core",
        place: end_to_end("health_load"),
        tests: &["ten_thousand_servers_take_less_than_half_a_core"],
    },
    Story {
        name: "config-mistakes",
        shows: "all mistakes of a file at once, each with its place and a remedy",
        place: CONTROL,
        tests: &["config::"],
    },
    Story {
        name: "reload-whole",
        shows: "a file is taken whole or not at all",
        place: CONTROL,
        tests: &["reload::"],
    },
    Story {
        name: "reload-load",
        shows: "1 000 changes under load: no connection broken, no packet lost",
        place: end_to_end("reload"),
        tests: &["a_thousand_changes_break_nothing"],
    },
    Story {
        name: "reload-10000",
        shows: "10 000 services with 10 servers each load in less than 2 s",
        place: end_to_end("reload"),
        tests: &["ten_thousand_services_load_quickly"],
    },
    Story {
        name: "hostile-api",
        shows: "nonsense, floods and hanging clients at the command socket",
        place: CONTROL,
        tests: &["api::"],
    },
    Story {
        name: "api",
        shows: "the API by curl, for root and a group only, while clients hang",
        place: end_to_end("api"),
        tests: &[
            "curl_does_what_the_commands_do",
            "only_root_and_members_of_the_group_are_answered",
            "clients_that_hang_hold_up_neither_packets_nor_others",
        ],
    },
    Story {
        name: "hostile-web",
        shows: "garbage, endless headers, silence and changes at the web port",
        place: CONTROL,
        tests: &["web::"],
    },
    Story {
        name: "metrics",
        shows: "metrics count what was forwarded, and are not served to the world",
        place: end_to_end("observe"),
        tests: &["metrics_count_what_was_forwarded"],
    },
    Story {
        name: "web-page",
        shows: "the page in a browser, with screenshots",
        place: end_to_end("observe"),
        tests: &["the_page_shows_it_in_a_browser"],
    },
    Story {
        name: "events",
        shows: "events and connections are listed and found",
        place: end_to_end("observe"),
        tests: &["events_and_connections_are_listed"],
    },
    Story {
        name: "capture",
        shows: "packets before and after rewriting by each method, and dropped ones, as tshark reads them",
        place: end_to_end("capture"),
        tests: &["both_sides_are_shown", "drops_have_their_reason", "carried_sessions_are_shown_too"],
    },
    Story {
        name: "trace",
        shows: "what would become of a packet, and then it does",
        place: end_to_end("capture"),
        tests: &["a_trace_tells_what_happens", "a_trace_says_why_not"],
    },
    Story {
        name: "top",
        shows: "sluice top in a terminal",
        place: end_to_end("observe"),
        tests: &["top_draws_and_ends"],
    },
];
