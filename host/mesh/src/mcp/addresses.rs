//! Virtual addresses for services that istiod gives none: it does so for objects in the Kubernetes
//! API alone. Without one a proxy cannot tell apart two services that speak no HTTP on one port.
//!
//! An address stays with its object for as long as that is served, over restarts too. One that was
//! given up is given again only after all others were: proxies and clients may remember it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses to give, as `240.241.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    base: IpAddr,
    /// How many addresses there are, the first and the last included.
    count: u128,
    bits: u8,
}

/// It is no range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a range of addresses; it must be an address with its host part zero, a slash and the length of the network, such as 240.241.0.0/16"
)]
pub struct RangeError(String);

/// Fewer would be used up by a handful of services and their successors.
const HOST_BITS_MIN: u8 = 4;
/// More is never given, and would not fit the arithmetic.
const HOST_BITS_MAX: u8 = 64;

/// Which addresses are given.
#[derive(Debug)]
pub(super) struct Addresses {
    range: AddressRange,
    given: BTreeSet<IpAddr>,
    last: Option<IpAddr>,
}

impl Addresses {
    /// Addresses of `range`, of which some are given.
    pub(super) fn new(
        range: AddressRange,
        given: impl Iterator<Item = IpAddr>,
        last: Option<IpAddr>,
    ) -> Self {
        Self { range, given: given.collect(), last }
    }

    /// Whether an address that an object had is still one of these.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.range.offset(address).is_some()
    }

    /// The next address; `None` when all are given.
    pub(super) fn give(&mut self) -> Option<IpAddr> {
        // The first and the last of a network may be taken for the network and for everybody.
        let usable = self.range.count - 2;
        let last = self.last.and_then(|last| self.range.offset(last)).unwrap_or(usable);
        let address = (0..usable)
            .map(|step| self.range.at((last + step) % usable + 1))
            .find(|address| !self.given.contains(address))?;
        self.given.insert(address);
        self.last = Some(address);
        Some(address)
    }

    /// The address is free.
    pub(super) fn take_back(&mut self, address: IpAddr) {
        self.given.remove(&address);
    }

    /// Exactly these are given.
    pub(super) fn reset(&mut self, given: impl Iterator<Item = IpAddr>) {
        self.given = given.collect();
    }

    /// The one that was given last.
    pub(super) fn last(&self) -> Option<IpAddr> {
        self.last
    }
}

// === impl AddressRange ===

impl AddressRange {
    /// Which of its addresses it is.
    fn offset(&self, address: IpAddr) -> Option<u128> {
        if self.base.is_ipv4() != address.is_ipv4() {
            return None;
        }
        let offset = number(address).checked_sub(number(self.base))?;
        (offset < self.count).then_some(offset)
    }

    fn at(&self, offset: u128) -> IpAddr {
        let number = number(self.base) + offset;
        match self.base {
            // The sum stays within the network, so it fits.
            IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            IpAddr::V6(_) => Ipv6Addr::from(number).into(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(raw: &str) -> Result<Self, RangeError> {
        let error = || RangeError(raw.chars().take(100).collect());
        let (base, bits) = raw.split_once('/').ok_or_else(error)?;
        let base: IpAddr = base.parse().map_err(|_| error())?;
        let bits: u8 = bits.parse().map_err(|_| error())?;
        let all = if base.is_ipv4() { 32 } else { 128 };
        let host_bits = u8::checked_sub(all, bits).ok_or_else(error)?;
        if !(HOST_BITS_MIN..=HOST_BITS_MAX).contains(&host_bits) {
            return Err(error());
        }
        let count = 1 << host_bits;
        if !number(base).is_multiple_of(count) {
            return Err(error());
        }
        Ok(Self { base, count, bits })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(raw: &str) -> AddressRange {
        raw.parse().unwrap()
    }

    #[test]
    fn addresses_come_back_only_after_all_others() {
        let mut addresses = Addresses::new(range("240.241.0.0/28"), std::iter::empty(), None);
        let given: Vec<IpAddr> = (0..14).filter_map(|_| addresses.give()).collect();
        assert_eq!(given.first().unwrap().to_string(), "240.241.0.1");
        assert_eq!(given.last().unwrap().to_string(), "240.241.0.14");
        assert_eq!(addresses.give(), None);
        addresses.take_back(given[3]);
        assert_eq!(addresses.give(), Some(given[3]));

        let mut addresses = Addresses::new(range("240.241.0.0/28"), std::iter::empty(), None);
        let first = addresses.give().unwrap();
        addresses.take_back(first);
        assert_ne!(addresses.give(), Some(first), "somebody may remember it");
        // The same after a restart.
        let mut restarted =
            Addresses::new(range("240.241.0.0/28"), std::iter::empty(), addresses.last());
        assert_eq!(restarted.give().unwrap().to_string(), "240.241.0.3");
    }

    #[test]
    fn ranges_are_networks() {
        for good in ["240.241.0.0/16", "fd00:1::/112"] {
            assert_eq!(range(good).to_string(), good);
        }
        for bad in
            ["240.241.0.1/16", "240.241.0.0", "240.241.0.0/30", "240.0.0.0/33", "x/8", "::/0"]
        {
            assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
        }
        let addresses = Addresses::new(range("10.1.0.0/24"), std::iter::empty(), None);
        assert!(addresses.has("10.1.0.255".parse().unwrap()));
        assert!(!addresses.has("10.1.1.0".parse().unwrap()));
        assert!(!addresses.has("::1".parse().unwrap()));
    }
}
