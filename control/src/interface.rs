//! Names of network interfaces.

/// Longest name (`IFNAMSIZ` less its NUL).
const MAX_NAME: usize = 15;

/// Whether an interface can have this name (`dev_valid_name` in the kernel's
/// `net/core/dev.c`). Control characters, most of which the kernel allows, are
/// taken for mistakes.
pub(crate) fn is_name(text: &str) -> bool {
    let odd = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
    !matches!(text, "" | "." | "..") && text.len() <= MAX_NAME && !text.contains(odd)
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_are_told_from_what_is_none() {
        for name in ["eth0", "enp3s0f0np0.100", "br-lan", "ü"] {
            assert!(is_name(name), "{name}");
        }
        for text in ["", "sixteen-letters0", ".", "..", "a/b", "eth0:1", "a b", "a\tb", "a\0"] {
            assert!(!is_name(text), "{text:?}");
        }
    }
}
