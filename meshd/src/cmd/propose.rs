//! `--advertise-routes` without a value, for `up` and `set`: which connected network is offered.

use crate::cli::{CONNECTED, SettingsArgs};
use crate::output::CliError;
use anyhow::Context;

/// Puts the one connected network where no value was given.
///
/// # Errors
/// Where there is none, or a choice: names them.
pub(super) fn routes(settings: &mut SettingsArgs) -> anyhow::Result<()> {
    if settings.advertise_routes.as_deref() != Some(CONNECTED) {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mesh = meshd_node::os::IfName::mesh0();
    let lans = runtime
        .block_on(meshd_node::os::links::connected_lans(&mesh))
        .context("cannot list the connected networks")?;
    let names: Vec<String> = lans.iter().map(ToString::to_string).collect();
    settings.advertise_routes = Some(the_one(&names)?);
    Ok(())
}

fn the_one(names: &[String]) -> Result<String, CliError> {
    match names {
        [one] => Ok(one.clone()),
        [] => Err(CliError::usage(
            "this machine is connected to no private network that could be offered",
            "name one: --advertise-routes 192.168.1.0/24; to offer none: --advertise-routes=\"\"",
        )),
        many => Err(CliError::usage(
            format!("this machine is connected to {} networks: {}", many.len(), many.join(", ")),
            format!("choose: --advertise-routes {}; to offer none: --advertise-routes=\"\"", many.join(",")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_is_taken_and_of_several_one_is_to_be_chosen() {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(the_one(&names(&["192.168.1.0/24"])).unwrap(), "192.168.1.0/24");
        let several = the_one(&names(&["192.168.1.0/24", "10.0.0.0/8"])).unwrap_err();
        assert!(several.hint.contains("--advertise-routes 192.168.1.0/24,10.0.0.0/8"), "{several:?}");
        assert!(the_one(&[]).unwrap_err().message.contains("no private network"));
    }

    #[test]
    fn what_was_named_stays_and_so_does_an_empty_value() {
        for value in [Some("10.0.0.0/8"), Some(""), None] {
            let value = value.map(str::to_owned);
            let mut settings = SettingsArgs { advertise_routes: value.clone(), ..SettingsArgs::default() };
            routes(&mut settings).unwrap();
            assert_eq!(settings.advertise_routes, value);
        }
    }
}
