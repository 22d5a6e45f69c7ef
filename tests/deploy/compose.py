#!/usr/bin/env python3
"""Holds the Compose file to what it mounts and to what is in that.

    compose.py NORMALIZED.yaml SAGAD     NORMALIZED: as compose-go, the library of `docker compose`, reads
                                         deploy/compose/compose.yaml; SAGAD: the binary
"""

import glob
import os
import subprocess
import sys

import yaml

problems = []


def holds(truth, what):
    if not truth:
        problems.append(what)


def load(path):
    with open(path, encoding="utf-8") as file:
        return yaml.safe_load(file)


def main():
    project = load(sys.argv[1])
    services = project["services"]
    mounted = {}
    for name, service in services.items():
        image, _, tag = service["image"].rpartition(":")
        holds(image and tag not in ("", "latest"), f"{name}: the image has a version")
        holds(service.get("read_only") is True and service["cap_drop"] == ["ALL"], f"{name} is confined")
        holds("healthcheck" in service or "build" in service, f"{name} is asked for its health")
        holds(service["deploy"]["resources"]["limits"].get("memory"), f"{name} has a bound on memory")
        for port in service["ports"]:
            holds(port.get("host_ip") == "127.0.0.1", f"{name}: {port} is for this machine only")
        for volume in service["volumes"]:
            source = volume["source"]
            if volume["type"] == "bind":
                holds(os.path.exists(source), f"{name} mounts {source}, which is there")
                holds(volume.get("read_only"), f"{name} can't write to {source}")
                mounted[f"{name}:{volume['target']}"] = source
            else:
                holds(source in project["volumes"], f"{name}: there is a volume {source}")
    build = services["sagad"]["build"]
    holds(os.path.isfile(os.path.join(build["context"], build["dockerfile"])), "there is a Dockerfile to build from")

    # What the image sets, and what the service adds.
    settings = {"SAGAD_DATA": "/data", **services["sagad"]["environment"]}
    checked = subprocess.run([os.path.abspath(sys.argv[2]), "config", "check"], env=settings, capture_output=True, text=True)
    holds(checked.returncode == 0, f"sagad config check: {checked.stderr}")

    # Prometheus asks the coordinator, by its name and the port of its ops listener, and finds its rules.
    scraped = load(mounted["prometheus:/etc/prometheus/prometheus.yml"])
    port = services["sagad"]["environment"]["SAGAD_OPS_LISTEN"].rpartition(":")[2]
    (job,) = scraped["scrape_configs"]
    holds(job["static_configs"] == [{"targets": [f"sagad:{port}"]}], "Prometheus asks the coordinator")
    # CI has promtool look at the other one.
    alone = load("deploy/prometheus/prometheus.yml")
    job["static_configs"] = alone["scrape_configs"][0]["static_configs"]
    holds(scraped == alone, "Prometheus is set up as deploy/prometheus does it")
    for rules in scraped["rule_files"]:
        holds(f"prometheus:/etc/prometheus/{rules}" in mounted, f"the rules {rules} are mounted")
    # Grafana asks Prometheus, and finds dashboards.
    (source,) = load(mounted["grafana:/etc/grafana/provisioning/datasources/sagad.yaml"])["datasources"]
    holds(source["url"] == "http://prometheus:9090", "Grafana asks Prometheus")
    (provider,) = load(mounted["grafana:/etc/grafana/provisioning/dashboards/sagad.yaml"])["providers"]
    dashboards = mounted.get(f"grafana:{provider['options']['path']}")
    holds(dashboards and glob.glob(f"{dashboards}/*.json"), "there are dashboards")

    for problem in problems:
        print(f"does not hold: {problem}", file=sys.stderr)
    print(f"{len(services)} services, {len(problems)} problems")
    sys.exit(bool(problems))


main()
