//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use landfall_core::name::{self, Namespace};
use landfall_core::text::Text;
use landfall_mesh::kube::adopt::Selection;

use crate::config::units::Duration;

/// Keeps Istio resources equal to what policies decide of the instances in service registries.
#[derive(Debug, Parser)]
#[command(name = "landfall", version, max_term_width = 100)]
#[command(after_help = "\
Exit codes: 0 done; 1 it failed; 2 `plan` or `adopt` with --exit-code found a difference, or the \
command line is wrong; 3 the configuration is illegal.")]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
    /// How to write the log, which goes to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "LANDFALL_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
    /// What to log: a level, or `target=level` pairs. Of the Kubernetes client's own errors, which
    /// are told with the name of their sink, only what `kube_runtime::watcher` or
    /// `kube_client::client::builder` is named for.
    #[arg(long, global = true, default_value = "info", env = "LANDFALL_LOG")]
    pub(crate) log: String,
}

impl Cli {
    /// Says what clap's own rules cannot.
    ///
    /// # Errors
    /// Arguments that make no sense together.
    pub(crate) fn checked(self) -> Result<Self, clap::Error> {
        if let Verb::Plan(args) = &self.verb
            && args.exit_code
            && args.output == PlanOutput::Yaml
        {
            let why = "--exit-code cannot be used with --output yaml, which does not look at sinks";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, why));
        }
        Ok(self)
    }
}

/// How to write the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Watch the registries and keep the sinks up to date until stopped.
    Run(ConfigArgs),
    /// Work out what should be, once, and print it or how the sinks differ from it.
    Plan(PlanArgs),
    /// Take objects over that another bridge wrote to a cluster: show what would become of those
    /// that are selected, and do it with `--yes`. None is made anew, and none is deleted.
    Adopt(AdoptArgs),
    /// Check the configuration, or print its JSON Schema.
    Check(CheckArgs),
    /// Tell what becomes of a host or an instance, step by step.
    Explain(ExplainArgs),
    /// Print what a registry lists, in the format of the file source.
    Snapshot(SnapshotArgs),
    /// Work with policies.
    #[command(subcommand)]
    Policy(PolicyVerb),
}

/// Which configuration to read.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = "landfall.yaml")]
    pub(crate) config: PathBuf,
}

/// What is read once, and how long to wait for the registries.
#[derive(Debug, Args)]
pub(crate) struct OnceArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "its help is its fields'")]
    pub(crate) config: ConfigArgs,
    /// How long to wait for each registry's complete listing, such as 30s. One that lists something
    /// in doubt, as while it cannot read a service, is waited for less long.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(crate) timeout: Duration,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "its help is its fields'")]
    pub(crate) once: OnceArgs,
    /// `text`: the steps against each sink, as a diff. `yaml`: every desired resource, in a
    /// stable order; sinks are not looked at.
    #[arg(short, long, value_enum, default_value_t = PlanOutput::Text)]
    pub(crate) output: PlanOutput,
    /// Exit with 2 when a sink differs from what is desired: there are steps to do, held ones, or
    /// objects that somebody else's stand in the way of. Not with `--output yaml`.
    #[arg(long)]
    pub(crate) exit_code: bool,
}

/// What `plan` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlanOutput {
    /// The steps, as a diff.
    Text,
    /// The desired resources.
    Yaml,
}

/// Arguments of `adopt`.
#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "its help is its fields'")]
    pub(crate) once: OnceArgs,
    /// The sink, as `plan` names it; may be left out where only one is a cluster.
    #[arg(long, value_name = "SINK")]
    pub(crate) sink: Option<String>,
    /// An object; may be given several times.
    #[arg(
        long = "name",
        value_name = "NAMESPACE/NAME",
        required_unless_present = "selector",
        conflicts_with = "selector"
    )]
    pub(crate) names: Vec<ObjectName>,
    /// All objects that carry these labels.
    #[arg(long, value_name = "KEY=VALUE,...")]
    pub(crate) selector: Option<Labels>,
    /// Of those, the ones in this namespace.
    #[arg(long, requires = "selector", conflicts_with = "names", value_parser = namespace)]
    pub(crate) namespace: Option<Text>,
    /// Do it. What changed since it was read is left alone.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Exit with 2 when there is something to adopt, or something that is refused.
    #[arg(long, conflicts_with = "yes")]
    pub(crate) exit_code: bool,
}

/// The name of an object in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectName {
    namespace: Text,
    name: Text,
}

/// Labels that an object has to carry; never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Labels(Vec<(Text, Text)>);

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "its help is its fields'")]
    pub(crate) config: ConfigArgs,
    /// Print the JSON Schema of the configuration instead.
    #[arg(long)]
    pub(crate) schema: bool,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A host such as `orders.dc1.mesh`, or an instance as `SOURCE/SERVICE/INSTANCE`. Where a
    /// registry has datacenters, partitions or groups they may stand before the service, and must
    /// where it is not unique.
    #[arg(value_name = "HOST|SOURCE/SERVICE/INSTANCE")]
    pub(crate) subject: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its help is its fields'")]
    pub(crate) once: OnceArgs,
}

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "its help is its fields'")]
    pub(crate) once: OnceArgs,
    /// Which source; may be left out where there is only one.
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
}

/// Subcommands of `policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Turn a core module, as `cargo build --target wasm32-unknown-unknown` makes it, into a
    /// component.
    Componentize(ComponentizeArgs),
}

/// Arguments of `policy componentize`.
#[derive(Debug, Args)]
pub(crate) struct ComponentizeArgs {
    /// The core module.
    pub(crate) module: PathBuf,
    /// Where the component goes.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

// === impl AdoptArgs ===

impl AdoptArgs {
    /// What is selected.
    pub(crate) fn selections(&self) -> Vec<Selection> {
        let named = self.names.iter().map(|object| {
            Selection::Name(Text::clone(&object.namespace), Text::clone(&object.name))
        });
        let labeled = self
            .selector
            .iter()
            .map(|labels| Selection::Labels(labels.0.clone(), self.namespace.clone()));
        named.chain(labeled).collect()
    }
}

// === impl ObjectName ===

impl FromStr for ObjectName {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, String> {
        let (namespace, name) =
            raw.split_once('/').ok_or_else(|| "it is not NAMESPACE/NAME".to_owned())?;
        if name::object_name(name).altered {
            return Err(format!("{name:?} is not the name of an object"));
        }
        Ok(Self { namespace: self::namespace(namespace)?, name: Text::from(name) })
    }
}

// === impl Labels ===

impl FromStr for Labels {
    type Err = String;

    /// Of what kubectl takes only this: that something is not so selects what nobody looked at.
    fn from_str(raw: &str) -> Result<Self, String> {
        let label = |pair: &str| {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))?;
            if name::label_key(key).altered || name::label_value(value).altered {
                return Err(format!("{pair:?} is not a legal label"));
            }
            Ok((Text::from(key), Text::from(value)))
        };
        raw.split(',').map(label).collect::<Result<_, _>>().map(Self)
    }
}

fn namespace(raw: &str) -> Result<Text, String> {
    let namespace = Namespace::parse(raw).map_err(|error| error.to_string())?;
    Ok(Text::clone(namespace.text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_adopted_is_selected() {
        let parse = |args: &str| {
            let args = args.split(' ').filter(|arg| !arg.is_empty());
            let cli = Cli::try_parse_from(["landfall", "adopt"].into_iter().chain(args))?;
            let Verb::Adopt(args) = cli.verb else { panic!("{:?}", cli.verb) };
            Ok::<_, clap::Error>(args.selections().iter().map(|s| s.to_string()).collect())
        };
        let selected = |args: &str| -> Vec<String> { parse(args).unwrap() };
        assert_eq!(selected("--name a/b.c --name d/e --yes"), ["a/b.c", "d/e"]);
        assert_eq!(selected("--selector a.b/c=d,e= --namespace f"), ["a.b/c=d,e="]);
        for illegal in [
            "",
            "--yes",
            "--name a",
            "--name a/",
            "--name a/b,c",
            "--name A/b",
            "--selector a",
            "--selector a!=b",
            "--selector !a",
            "--selector a=b,",
            "--selector =",
            "--name a/b --selector a=b",
            "--name a/b --namespace a",
            "--selector a=b --namespace a/b",
            "--name a/b --yes --exit-code",
        ] {
            assert!(parse(illegal).is_err(), "{illegal}");
        }
    }

    #[test]
    fn an_exit_code_needs_a_look_at_the_sinks() {
        let parse = |args: &[&str]| Cli::try_parse_from(args).and_then(Cli::checked);
        assert!(parse(&["landfall", "plan", "--exit-code"]).is_ok());
        assert!(parse(&["landfall", "plan", "--output", "yaml"]).is_ok());
        let error = parse(&["landfall", "plan", "--output", "yaml", "--exit-code"]).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ArgumentConflict, 2));
    }
}
