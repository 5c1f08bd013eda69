//! Names that Kubernetes and DNS accept. What a registry holds is free text, and Landfall alters a name that is not
//! legal and reports it, so a policy that builds names from registry data and wants others checks or converts them here.

use std::borrow::Cow;

/// The longest DNS label, and the longest value of a Kubernetes label.
pub const LABEL_LEN_MAX: usize = 63;

/// The longest host name.
pub const HOST_LEN_MAX: usize = 253;

/// Whether the text can be one part of a host name: 1 to 63 of `a-z`, `0-9` and `-`, the latter not at an end (RFC 1123).
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inside = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    matches!(bytes, [first, .., last] if *first != b'-' && *last != b'-')
        | matches!(bytes, [one] if *one != b'-')
        && bytes.len() <= LABEL_LEN_MAX
        && bytes.iter().all(inside)
}

/// Whether the text is a host name of DNS labels, at most 253 characters.
#[must_use]
pub fn is_host(text: &str) -> bool {
    text.len() <= HOST_LEN_MAX && text.split('.').all(is_dns_label)
}

/// Whether the text can be the value of a Kubernetes label: empty, or up to 63 letters, digits, `-`, `_` and `.` with a
/// letter or digit at both ends.
#[must_use]
pub fn is_label_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    bytes.len() <= LABEL_LEN_MAX
        && bytes.iter().all(inside)
        && bytes.first().is_none_or(u8::is_ascii_alphanumeric)
        && bytes.last().is_none_or(u8::is_ascii_alphanumeric)
}

/// Makes one part of a host name of any text: lower case, a run of anything illegal becomes one `-`, cut to 63.
///
/// Two texts can become one name (`a_b` and `a.b`). Where that would join two services, refuse instead. Empty when
/// nothing of the text can stay.
#[must_use]
pub fn dns_label(text: &str) -> Cow<'_, str> {
    if is_dns_label(text) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(squeeze(text, |character| match character {
        'a'..='z' | '0'..='9' => Some(character),
        'A'..='Z' => Some(character.to_ascii_lowercase()),
        _ => None,
    }))
}

/// Makes the value of a Kubernetes label of any text: a run of anything illegal becomes one `-`, cut to 63.
#[must_use]
pub fn label_value(text: &str) -> Cow<'_, str> {
    if is_label_value(text) {
        return Cow::Borrowed(text);
    }
    let made = squeeze(text, |character| match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' => Some(character),
        _ => None,
    });
    // What `squeeze` trims is only the dash, but these may not stand at an end either.
    Cow::Owned(made.trim_matches(['-', '_', '.']).to_owned())
}

/// Keeps what `legal` maps, puts one dash for each run of the rest between two kept characters, and cuts to 63 bytes.
fn squeeze(text: &str, legal: impl Fn(char) -> Option<char>) -> String {
    let mut made = String::new();
    let mut gap = false;
    for character in text.chars() {
        let Some(kept) = legal(character) else {
            gap = true;
            continue;
        };
        if gap && !made.is_empty() {
            made.push('-');
        }
        gap = false;
        made.push(kept);
    }
    // Everything kept is ASCII, so this is a character boundary.
    made.truncate(LABEL_LEN_MAX);
    if made.ends_with('-') {
        made.pop();
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_names_are_told_from_others() {
        for good in ["a", "a-b", "0", &"a".repeat(63)] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "-", "-a", "a-", "A", "a_b", "a.b", "\u{e4}", &"a".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
        assert!(is_host("a.b-c.d") && !is_host("a..b") && !is_host("") && !is_host("*.a"));
        assert!(!is_host(&["a".repeat(63).as_str(); 4].join(".")));
        for good in ["", "A", "a_b.C-1"] {
            assert!(is_label_value(good), "{good}");
        }
        for bad in ["-a", "a-", "a b", "_", &"a".repeat(64)] {
            assert!(!is_label_value(bad), "{bad}");
        }
    }

    #[test]
    fn any_text_becomes_a_legal_name_or_none() {
        for (text, dns, label) in [
            ("pay", "pay", "pay"),
            ("PAY_SVC", "pay-svc", "PAY_SVC"),
            ("__a  b..", "a-b", "a-b"),
            ("v1.2.3+build", "v1-2-3-build", "v1.2.3-build"),
            ("\u{e4}\u{f6}", "", ""),
        ] {
            assert_eq!(
                (dns_label(text).as_ref(), label_value(text).as_ref()),
                (dns, label),
                "{text}"
            );
        }
        for text in
            ["a".repeat(62) + "_b", "-".repeat(200), "x_".repeat(100), "\u{1f600}a".repeat(80)]
        {
            let dns = dns_label(&text);
            assert!(dns.is_empty() || is_dns_label(&dns), "{dns}");
            assert!(is_label_value(&label_value(&text)), "{text}");
        }
    }
}
