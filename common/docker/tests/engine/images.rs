//! Images: those that the engine has, those that it fetches, and those that it makes.

use crate::machine::{IMAGE, Machine};
use crate::outside::listener;
use crate::registry::{Registry, arrives, image, push, registry};
use ports::engine::{EngineError, Image, Incarnation};
use std::net::TcpListener;
use testkit::engine::suite::{Failure, Subject as _, assert_nothing_left, fresh, remove_all};

async fn create(machine: &Machine, image: &str) -> Result<Incarnation, Failure> {
    machine.create(|spec| spec.image = Image::Reference(image.to_owned())).await
}

/// The error of a creation that cannot succeed.
async fn refused(machine: &Machine, image: &str) -> EngineError {
    let error = create(machine, image).await.unwrap_err();
    *error.downcast().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_image_is_fetched_once() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let registry = Registry::slow(listener("127.0.0.1"))?;
    let path = push(&machine, "fetched");
    let name = format!("{}/{path}", registry.address);
    assert_eq!(image(&machine, &name).await, None);
    let began = machine.engine_time();
    let created = async {
        let creations = (create(&machine, &name), create(&machine, &name), create(&machine, &name));
        let (first, second, third) = tokio::join!(creations.0, creations.1, creations.2);
        Ok::<_, Failure>([first?, second?, third?])
    };
    let watched = async {
        arrives(&machine, &name).await;
        registry.release();
    };
    let (created, ()) = tokio::join!(created, watched);
    let created = created?;
    let found = image(&machine, &name).await.unwrap();
    assert!(found.bytes > 0 && found.pull.is_none(), "{found:?}");
    let (until, filter) = (machine.engine_time(), format!("image={name}"));
    let window = ["events", "--since", &began, "--until", &until];
    let filters = ["--filter", "event=pull", "--filter", &filter];
    let pulls = machine.docker(&[window.as_slice(), &filters].concat());
    assert_eq!(pulls.lines().count(), 1, "{pulls}");
    for id in created {
        machine.text(&id, "test -s /fetched").await?;
    }
    remove_all(&machine).await?;
    machine.docker(&["rmi", &name]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_ends_a_fetch() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let registry = Registry::slow(listener("127.0.0.1"))?;
    let path = push(&machine, "given-up");
    let name = format!("{}/{path}", registry.address);
    let mut spec = machine.spec(domain::SandboxId::parse("s-1")?, fresh());
    spec.image = Image::Reference(name.clone());
    let (engine, incarnation) = (machine.engine(), spec.incarnation);
    let creation = tokio::spawn(async move { engine.create(&spec).await });
    arrives(&machine, &name).await;
    machine.engine().remove(&incarnation).await?;
    assert_eq!(creation.await?, Err(EngineError::Gone));
    assert_eq!(image(&machine, &name).await, None);
    assert_nothing_left(&machine).await;
    // The next one fetches it from its beginning.
    registry.release();
    let id = create(&machine, &name).await?;
    machine.text(&id, "test -s /fetched").await?;
    remove_all(&machine).await?;
    machine.docker(&["rmi", &name]);
    Ok(())
}

#[tokio::test]
async fn image_that_cannot_be_fetched_is_named() -> Result<(), Failure> {
    let machine = Machine::new().await;
    // Nothing listens there any more.
    let closed = format!("localhost:{}/app:1", TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
    let unknown = format!("{}/no/such:1", registry());
    for (name, reason) in [(&*closed, "refused"), (&*unknown, "no registry has it"), ("no/such/image:1", "")]
    {
        match refused(&machine, name).await {
            EngineError::Failed { reason: found } => {
                assert!(found.contains(name) && found.contains(reason), "{found}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(image(&machine, name).await, None);
    }
    for name in ["", "-x", "a b", "UPPER/CASE", "a//b", "app@sha256:12", "../etc"] {
        let error = refused(&machine, name).await;
        assert!(matches!(error, EngineError::Refused { .. }), "{name}: {error:?}");
    }
    assert_eq!(machine.engine().list().await?, []);
    assert_nothing_left(&machine).await;
    Ok(())
}

#[tokio::test]
async fn command_of_the_image_is_known() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let id = create(&machine, "test/entrypoint:1").await?;
    let expected = ["/bin/echo-entry", "first", "second argument"];
    for engine in [machine.engine(), machine.reopened().await] {
        let listed = engine.list().await?;
        assert_eq!(
            (listed[0].command.parts.as_slice(), listed[0].command.folder.as_str()),
            (expected.map(str::to_owned).as_slice(), "/srv")
        );
    }
    // The supervisor is process 1 all the same, and commands are the user of the template.
    assert_eq!(machine.text(&id, "cat /proc/1/comm; id -u").await?, "supervisor\n1000");
    let names: Vec<_> = machine.engine().images().await?.into_iter().map(|image| image.name).collect();
    assert!(
        ["busybox:latest", "test/entrypoint:1"].iter().all(|name| names.iter().any(|found| found == name)),
        "{names:?}"
    );
    remove_all(&machine).await
}

#[tokio::test]
async fn image_is_made_of_a_writable_root() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let made = format!("made/{}:1", fresh());
    let source = |spec: &mut ports::engine::ContainerSpec| {
        spec.image = Image::Reference("test/entrypoint:1".to_owned());
        spec.read_only_root = false;
    };
    let (id, other) = (machine.create(source).await?, machine.create(source).await?);
    machine.text_as(0, &id, "echo kept >/etc/made && echo lost >/tmp/made").await?;
    machine.text(&id, "echo lost >/workspace/made").await?;
    machine.text(&other, "! test -e /etc/made").await?;
    let error = machine.engine().commit(&id, "made@sha256:12").await;
    assert!(matches!(error, Err(EngineError::Refused { .. })), "{error:?}");
    assert_eq!(machine.engine().commit(&fresh(), &made).await, Err(EngineError::Gone));
    machine.engine().commit(&id, &made).await?;
    machine.text(&id, "true").await?;
    let copy = create(&machine, &made).await?;
    assert_eq!(machine.text(&copy, "cat /etc/made; ls /tmp /workspace").await?, "kept\n/tmp:\n\n/workspace:");
    // It is an image as its own one was, and no container of it is taken for a sandbox.
    let listed = machine.engine().list().await?;
    assert!(listed.iter().all(|one| one.command == listed[0].command), "{listed:?}");
    assert_eq!(listed[0].command.folder, "/srv");
    let foreign = format!("foreign-{}", fresh());
    let printed = machine.docker(&["run", "--name", &foreign, &made]);
    assert!(printed.ends_with("folder /srv\nargument first\nargument second argument"), "{printed}");
    assert_eq!(machine.engine().list().await?, listed);
    machine.docker(&["rm", &foreign]);
    remove_all(&machine).await?;
    machine.docker(&["rmi", &made]);
    Ok(())
}

#[tokio::test]
async fn volumes_of_an_image_are_limited() -> Result<(), Failure> {
    let machine = Machine::new().await;
    let (source, image) = (format!("source-{}", fresh()), format!("volume/{}:1", fresh()));
    machine.docker(&["create", "--name", &source, IMAGE]);
    machine.docker(&["commit", "--change", "VOLUME /data", &source, &image]);
    machine.docker(&["rm", &source]);
    let id = create(&machine, &image).await?;
    let written = "dd if=/dev/zero of=/data/x bs=64k count=1000 2>/dev/null; cat /data/x | wc -c";
    assert_eq!(
        machine.text(&id, written).await?,
        (4 * 1024 * 1024).to_string(),
        "the size of folders in memory"
    );
    assert_eq!(machine.docker(&["volume", "ls", "--quiet"]), "");
    remove_all(&machine).await?;
    machine.docker(&["rmi", &image]);
    Ok(())
}
