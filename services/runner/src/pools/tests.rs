//! Which pools a node serves.

use super::*;
use crate::tests::{POOL, Rig, names, run};
use contract::FaultCode;
use contract::templates::TemplateSettings;

fn of_image(image: &str) -> TemplateSettings {
    TemplateSettings { image: image.to_owned(), ..TemplateSettings::default() }
}

#[test]
fn only_pools_that_the_node_can_serve_are_served() {
    run(async {
        let rig = Rig::new().await;
        let mut served = rig.node.pools.served();
        assert_eq!(names(&served.borrow_and_update()), [POOL]);
        rig.control.set_pool("python", of_image("python"));
        rig.control.set_pool("huge", TemplateSettings { memory_mb: Some(4_096), ..of_image("host") });
        rig.control
            .set_pool("images", TemplateSettings { isolation: Some("container".into()), ..of_image("x") });
        rig.control.set_pool("wrong", TemplateSettings { cpu_milli: Some(1), ..of_image("host") });
        rig.node.refresh_pools_once().await;
        assert!(!served.has_changed().unwrap(), "none of these");
        let python = PoolName::parse("python").unwrap();
        assert_eq!(rig.node.pools.demand(&python), None);
        std::fs::create_dir_all(rig.data().join("images/python")).unwrap();
        rig.node.refresh_pools_once().await;
        assert_eq!(names(&served.borrow_and_update()), ["python", POOL], "its image has come");
        assert_eq!(rig.node.pools.demand(&python).unwrap().memory_mb, 512);
        let read = rig.node.pools.read.lock();
        let reason = |pool: &str| read[&PoolName::parse(pool).unwrap()].clone().unwrap_err();
        assert!(reason("huge").contains("more than this node offers"));
        assert!(reason("images").contains("isolation"));
        assert!(reason("wrong").contains("cpu_milli"));
    });
}

#[test]
fn pools_stay_without_an_answer() {
    run(async {
        let rig = Rig::new().await;
        rig.control.refuse(Verb::NodePools, FaultCode::StoreUnavailable);
        rig.node.refresh_pools_once().await;
        assert_eq!(names(&rig.node.pools.served().borrow()), [POOL]);
    });
}
