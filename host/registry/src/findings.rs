//! Keeps the findings of a listing few and in order.

use landfall_core::finding::{Finding, FindingCode};

// A person reads the first few; a registry full of malformed entries must not cost memory for
// each of them in every state that is published.
const FINDINGS_MAX: usize = 1000;

/// `findings` in order, each once; past the bound one more says how many were left out.
pub(crate) fn bounded(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort();
    findings.dedup();
    if findings.len() > FINDINGS_MAX {
        let more = findings.len() - FINDINGS_MAX;
        findings.truncate(FINDINGS_MAX);
        findings.push(Finding::new(
            FindingCode::MalformedInstance,
            "listing",
            format!("{more} more findings are not shown; mend these first"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_findings_are_cut_and_counted() {
        let many = (0..FINDINGS_MAX + 5)
            .map(|i| Finding::new(FindingCode::MalformedInstance, i, "bad"))
            .collect();
        let kept = bounded(many);
        assert_eq!(kept.len(), FINDINGS_MAX + 1);
        assert!(kept.last().is_some_and(|f| f.message.starts_with("5 more")), "{kept:?}");
    }
}
