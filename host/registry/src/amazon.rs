//! What several registries say in Amazon's words.

/// The region of one of Amazon's zones: all up to its first number. Behind that stand the letter of
/// a zone, as in `us-east-1c`, or a place, as in `us-west-2-lax-1a` (AWS, "Regions and Zones").
pub(crate) fn region_of(zone: &str) -> &str {
    let digit = zone
        .match_indices('-')
        .map(|(dash, _)| dash + 1)
        .find(|at| zone[*at..].starts_with(|first: char| first.is_ascii_digit()));
    let Some(begin) = digit else { return "" };
    let number = zone[begin..].find(|c: char| !c.is_ascii_digit());
    &zone[..number.map_or(zone.len(), |len| begin + len)]
}
