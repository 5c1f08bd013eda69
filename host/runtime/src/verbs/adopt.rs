//! `landfall adopt`: takes over what another bridge wrote, where it is wanted.
//!
//! Invariant: only what was selected by name or label is touched, nothing is made or deleted, and
//! nothing is written that was not shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use landfall_core::guard::{GuardOptions, GuardSettings, GuardState, HeldFor, guard};
use landfall_core::holdings::Holdings;
use landfall_core::mesh::{Kind, Object, ObjectId};
use landfall_core::moved::Places;
use landfall_core::pairs::Pairs;
use landfall_core::plan::{Mode, Observed, Step};
use landfall_core::text::Text;
use landfall_mesh::api::{Body, Endpoints, MeshObject, RESERVED_PREFIX};
use landfall_mesh::kube::adopt::{Found, Selection, Whose};

use super::Ending;
use super::plan::{LINE_CHARS_MAX, write_diff};
use super::report::{Report, tell};
use crate::args::AdoptArgs;
use crate::clock;
use crate::config::{self, Configuration, SinkConfig, SinkKind};
use crate::once::{Once, gather};
use crate::sinks::{RunningSink, name_of};
use crate::sources::Needed;

/// What is to become of an object that was selected.
#[derive(Debug)]
enum Fate {
    /// It is as it should be, but for our mark.
    Equal(Arc<MeshObject>),
    /// It is to be so.
    Update(Arc<MeshObject>),
    /// It stays as it is, which is as it should be.
    Left(&'static str),
    /// It stays as it is, which is not what was asked for.
    Refused(String),
}

/// What is desired, and by what it is judged whether it may be made of something.
struct Wanted<'a> {
    config: &'a Configuration,
    sink: &'a SinkConfig,
    once: &'a Once,
    observed: &'a Observed<Body>,
}

/// Shows what would become of the selected objects, and does it if asked to.
///
/// # Errors
/// Something cannot be read: the configuration, a source, a policy, the sink. With `--yes`, something
/// that was selected was not taken over.
pub(crate) async fn adopt(args: &AdoptArgs) -> anyhow::Result<Ending> {
    let config = config::load(&args.once.config.config)?;
    let sink = chosen(&config, args.sink.as_deref())?;
    let timeout = args.once.timeout.0;
    let once = gather(&config, &Needed::All, timeout).await?;
    let running = RunningSink::look(sink.clone(), &config.owner, &once.clients).await?;
    let name = running.name();
    let failed = || format!("failed to read sink {name}");
    running.wait_ready(timeout).await.with_context(failed)?;
    let Some(cluster) = running.cluster() else { bail!("sink {name} is no cluster") };
    let mut report = Report::bounded(LINE_CHARS_MAX);
    once.notes().iter().for_each(|note| tell!(report, "{note}"));
    let (mut found, mut refused) = (BTreeMap::new(), 0);
    for selection in args.selections() {
        let objects = match cluster.find(&selection).await {
            Ok(objects) => objects,
            Err(condition) => Err(anyhow::anyhow!("{condition}")).with_context(failed)?,
        };
        if objects.is_empty() {
            tell!(report, "nothing is selected by {selection}");
            // A name says that there is something, labels that there may be.
            refused += usize::from(matches!(selection, Selection::Name(..)));
        }
        found.extend(objects.into_iter().map(|found| (found.object.id.clone(), found)));
    }
    let found: Vec<Found> = found.into_values().collect();
    let observed = running.sighting().borrow().observed.clone();
    let wanted = Wanted { config: &config, sink, once: &once, observed: &observed };
    let mut adopted = Vec::new();
    for (found, fate) in found.iter().zip(wanted.fates(&found)) {
        write_fate(&mut report, found, &fate, &config)?;
        match fate {
            Fate::Equal(to) | Fate::Update(to) => adopted.push((found, to)),
            Fate::Refused(_) => refused += 1,
            Fate::Left(_) => (),
        }
    }
    let count = adopted.len();
    if !args.yes {
        tell!(report, "sink {name}: {count} to adopt, {refused} refused; --yes does it");
        super::print(&report.into_text())?;
        let differs = args.exit_code && count + refused > 0;
        return Ok(if differs { Ending::Differs } else { Ending::Done });
    }
    super::print(&report.into_text())?;
    let mut failures = 0;
    // One after the other, so that whoever interrupts it knows what is done.
    for (found, to) in adopted {
        let outcome = cluster.adopt(found, &to).await;
        let mut report = Report::bounded(LINE_CHARS_MAX);
        if outcome.is_done() {
            tell!(report, "adopted {}", to.id);
        } else {
            failures += 1;
            let (code, message) = (outcome.code(), outcome.message());
            tell!(report, "failed {} ({code}): {message}. Look again before you repeat it", to.id);
        }
        super::print(&report.into_text())?;
    }
    if failures + refused > 0 {
        bail!("{} of what was selected was not adopted", failures + refused);
    }
    Ok(Ending::Done)
}

/// The cluster among the sinks that is meant.
fn chosen<'a>(config: &'a Configuration, name: Option<&str>) -> anyhow::Result<&'a SinkConfig> {
    let named = |sink: &&SinkConfig| name.is_none_or(|name| name_of(sink) == name);
    let sinks: Vec<&SinkConfig> = config.sinks.iter().filter(named).collect();
    let names = |sinks: &[&SinkConfig]| -> String {
        sinks.iter().map(|sink| name_of(sink)).collect::<Vec<_>>().join(", ")
    };
    let is_cluster = |sink: &&SinkConfig| matches!(sink.kind, SinkKind::Kubernetes { .. });
    let clusters: Vec<&SinkConfig> = sinks.iter().copied().filter(is_cluster).collect();
    match (&clusters[..], &sinks[..], name) {
        ([sink], ..) => Ok(sink),
        ([], [], Some(name)) => {
            let all: Vec<&SinkConfig> = config.sinks.iter().collect();
            bail!("there is no sink {name:?}; there are: {}", names(&all))
        }
        ([], ..) => bail!(
            "objects are adopted in a cluster, and sink {} is none. In a folder, remove the files \
             of others once Landfall's are beside them",
            names(&sinks)
        ),
        (many, ..) => bail!("several sinks are clusters; choose with --sink: {}", names(many)),
    }
}

// === impl Wanted ===

impl Wanted<'_> {
    /// What is to become of each of `found`.
    fn fates(&self, found: &[Found]) -> Vec<Fate> {
        let mut fates: Vec<Fate> = found.iter().map(|found| self.fate(found)).collect();
        let held = self.held(found, &fates);
        for (found, fate) in found.iter().zip(&mut fates) {
            if let Some(why) = held.get(&found.object.id) {
                *fate = Fate::Refused(format!("it would lose something, and {why}"));
            }
        }
        fates
    }

    //  found                          desired   fate
    //  ours                           any       left
    //  another Landfall's             any       refused
    //  other                          -         left
    //  other, where nobody watches    x         refused
    //  other, not readable            x         refused
    //  other, equal but for our mark  x         equal
    //  other                          x         update; refused where endpoints would be lost
    fn fate(&self, found: &Found) -> Fate {
        let id = &found.object.id;
        match &found.whose {
            Whose::Ours => return Fate::Left("already ours"),
            Whose::OtherLandfall(owner) => {
                return Fate::Refused(format!("it is of another Landfall (owner {owner})"));
            }
            Whose::Foreign => (),
        }
        let Some(to) = self.once.line.desired().get(id) else { return Fate::Left("not wanted") };
        if let SinkKind::Kubernetes { namespaces, .. } = &self.sink.kind
            && !namespaces.is_empty()
            && !namespaces.iter().any(|namespace| **namespace == *id.namespace)
        {
            return Fate::Refused("the sink does not watch its namespace".to_owned());
        }
        if !found.is_readable {
            return Fate::Refused("its spec has a form that Landfall does not know".to_owned());
        }
        let (before, after) = shown(found, to);
        if before.body == after.body {
            return Fate::Equal(Arc::clone(to));
        }
        if self.sink.mode == Mode::CreateOnly {
            let why = "it differs from what is desired, and the sink's mode is create-only";
            return Fate::Refused(why.to_owned());
        }
        if self.lacks_workloads(to) {
            let why = "its endpoints become WorkloadEntries, which are not all there. Start Landfall, \
                       which makes them, and then adopt it";
            return Fate::Refused(why.to_owned());
        }
        Fate::Update(Arc::clone(to))
    }

    /// Whether `to` selects WorkloadEntries that the sink does not hold.
    fn lacks_workloads(&self, to: &MeshObject) -> bool {
        let entry = to.body.service_entry();
        if !entry.is_some_and(|entry| matches!(entry.endpoints, Endpoints::Selected(_))) {
            return false;
        }
        let tie = to.tie();
        let selected = self
            .once
            .line
            .desired()
            .values()
            .filter(|object| object.id.kind == Kind::WorkloadEntry && object.tie() == tie);
        selected.into_iter().any(|object| !self.observed.ours.contains_key(&object.id))
    }

    /// What of it the guard would hold, were the found objects ours: an object that names no source
    /// may be of any, so nothing of it goes before all are current. The budget does not count, for a
    /// person looked at it.
    fn held(&self, found: &[Found], fates: &[Fate]) -> BTreeMap<ObjectId, HeldFor> {
        let mut observed = self.observed.clone();
        let mut steps = Vec::new();
        for (found, fate) in found.iter().zip(fates) {
            if let Fate::Update(to) = fate {
                let from = Arc::clone(&found.object);
                observed.foreign.remove(&from.id);
                observed.ours.insert(from.id.clone(), Arc::clone(&from));
                steps.push(Step::Update { from, to: Arc::clone(to) });
            }
        }
        let settings = GuardSettings {
            removal_share_percent: 100,
            removal_min: usize::MAX,
            ..self.config.guard
        };
        let mut holdings = Holdings::default();
        holdings.observe(&observed, clock::now());
        let desired = self.once.line.desired();
        let all = desired.keys().cloned().collect();
        let options = GuardOptions {
            places: Places::new(desired, &holdings, &all),
            entries: self.once.line.entries(),
            evidence: &self.once.line.evidence(),
            settings: &settings,
            grace: self.config.grace,
            under_way: &[],
            failed: &[],
            steps_max: usize::MAX,
            now: clock::now(),
        };
        let guarded = guard(steps, &options, &mut GuardState::default());
        guarded.held.into_iter().map(|held| (held.id, held.why)).collect()
    }
}

/// The object as it is and as it would be, for a person: without our mark, and with the labels and
/// annotations of others, which stay.
fn shown(found: &Found, to: &MeshObject) -> (MeshObject, MeshObject) {
    let before = MeshObject::clone(&found.object);
    let with = |theirs: &Pairs, ours: &Pairs| -> Pairs {
        let ours = ours.iter().filter(|(key, _)| !key.starts_with(RESERVED_PREFIX));
        let merged: BTreeMap<Text, Text> =
            theirs.iter().chain(ours).map(|(key, value)| (key.clone(), value.clone())).collect();
        merged.into_iter().collect()
    };
    let body = Body {
        labels: with(&before.body.labels, &to.body.labels),
        annotations: with(&before.body.annotations, &to.body.annotations),
        spec: to.body.spec.clone(),
    };
    let after = Object { body: Arc::new(body), ..before.clone() };
    (before, after)
}

fn write_fate(
    report: &mut Report,
    found: &Found,
    fate: &Fate,
    config: &Configuration,
) -> anyhow::Result<()> {
    let id = &found.object.id;
    match fate {
        Fate::Equal(_) => tell!(report, "equal {id}: only our mark is added"),
        Fate::Update(to) => {
            tell!(report, "update {id}");
            let (before, after) = shown(found, to);
            write_diff(report, Some(&before), Some(&after), &config.owner)?;
        }
        Fate::Left(why) => tell!(report, "{why}: {id} is left alone"),
        Fate::Refused(why) => tell!(report, "refused {id}: {why}"),
    }
    if let Fate::Equal(_) | Fate::Update(_) = fate {
        for owner in &found.owner_references {
            tell!(report, "  without its owner {owner}, with which it would be garbage-collected");
        }
    }
    Ok(())
}
