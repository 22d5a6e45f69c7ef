#!/usr/bin/env python3
"""Holds the Kubernetes objects to each other, and to the daemon's configuration in them.

    kubernetes.py RENDERED.yaml SAGAD SECRETS     RENDERED: what `kustomize build` made; SAGAD: the binary; SECRETS: a
                                                  directory with what is in the secrets, in directories called as the volumes
"""

import os
import subprocess
import sys
import tempfile
import tomllib

import yaml

problems = []


def holds(truth, what):
    if not truth:
        problems.append(what)


def matches(selector, labels):
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        objects = [each for each in yaml.safe_load_all(file) if each]
    sagad = os.path.abspath(sys.argv[2])

    def of_kind(kind):
        return [each for each in objects if each["kind"] == kind]

    def named(kind, name):
        found = [each for each in of_kind(kind) if each["metadata"]["name"] == name]
        holds(len(found) == 1, f"there is one {kind} {name}")
        return found[0] if found else None

    (workload,) = of_kind("StatefulSet")
    spec = workload["spec"]
    pod = spec["template"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    holds(spec["replicas"] == 1, "there is one daemon")
    holds(matches(spec["selector"]["matchLabels"], labels), "the set selects its pods")
    headless = named("Service", spec["serviceName"])
    holds(headless and headless["spec"].get("clusterIP") == "None", "the set's service is headless")
    holds(":" in container["image"] and not container["image"].endswith(":latest"), "the image has a version")
    holds(pod["enableServiceLinks"] is False, "no service puts SAGAD_ variables into the pod")

    for service in of_kind("Service"):
        name = service["metadata"]["name"]
        holds(matches(service["spec"]["selector"], labels), f"service {name} selects the pod")
        for port in service["spec"]["ports"]:
            holds(port["targetPort"] in ports, f"service {name}: the pod has a port {port['targetPort']}")
            holds(port["port"] == ports.get(port["targetPort"]), f"service {name}: one number for {port['targetPort']}")
    for budget in of_kind("PodDisruptionBudget"):
        holds(matches(budget["spec"]["selector"]["matchLabels"], labels), "the budget selects the pod")
    for policy in of_kind("NetworkPolicy"):
        holds(matches(policy["spec"]["podSelector"]["matchLabels"], labels), "the network policy selects the pod")
        opened = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
        holds(sorted(opened) == sorted(ports), f"the network policy opens the pod's ports: {opened}")
    for monitor in of_kind("ServiceMonitor"):
        chosen = [each for each in of_kind("Service")
                  if matches(monitor["spec"]["selector"]["matchLabels"], each["metadata"]["labels"])]
        holds(len(chosen) == 1, "the monitor selects one service")
        named_ports = {port["name"] for each in chosen for port in each["spec"]["ports"]}
        holds(all(end["port"] in named_ports for end in monitor["spec"]["endpoints"]), "the monitor's port is there")

    # What is mounted, and where.
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    claims = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    volumes = {volume["name"] for volume in pod["volumes"]}
    holds(set(mounts) == claims | volumes, f"each volume is mounted, each mount has a volume: {set(mounts) ^ (claims | volumes)}")
    for inner in mounts.values():
        for outer in mounts.values():
            holds(not inner.startswith(outer + "/"), f"{inner} lies in {outer}, which is not to be written to")
    (config,) = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    text = named("ConfigMap", config)["data"]["sagad.toml"]
    holds(container["args"] == ["serve", "--config", f"{mounts['config']}/sagad.toml"], "the daemon reads its configuration")

    # The configuration itself.
    settings = tomllib.loads(text)

    def port_of(key):
        host, _, port = settings[key].rpartition(":")
        holds(host == "0.0.0.0", f"{key} is the pod's address")
        return int(port)

    holds(port_of("listen") == ports["grpc"], "listen is the port grpc")
    holds(port_of("ops_listen") == ports["ops"], "ops_listen is the port ops")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        ((kind, asked),) = [(key, value) for key, value in container[probe].items() if key in ("grpc", "httpGet")]
        number = ports.get(asked["port"], asked["port"])
        holds(number == ports["ops"], f"{probe} ({kind}) asks the port ops")
    holds(settings["data"] == mounts["data"], "the data is on the claimed volume")
    for key in ("tls_cert", "tls_key", "tls_client_ca", "principals"):
        holds(any(settings[key].startswith(mounts[name] + "/") for name in ("tls", "principals")), f"{key} is mounted")
    holds("insecure" not in settings, "nothing is open")
    grace = int(settings["drain_grace"].removesuffix("s"))
    holds(pod["terminationGracePeriodSeconds"] >= grace + 5, "the pod has time to drain, and to close the store")

    for scope, key, value in (
        (pod["securityContext"], "runAsNonRoot", True),
        (pod["securityContext"], "seccompProfile", {"type": "RuntimeDefault"}),
        (container["securityContext"], "readOnlyRootFilesystem", True),
        (container["securityContext"], "allowPrivilegeEscalation", False),
        (container["securityContext"], "capabilities", {"drop": ["ALL"]}),
        (pod, "automountServiceAccountToken", False),
    ):
        holds(scope.get(key) == value, f"{key} is {value}")

    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        # Its files, as they would be mounted.
        for name in ("tls", "principals"):
            text = text.replace(f'"{mounts[name]}/', f'"{os.path.abspath(sys.argv[3])}/{name}/')
        file.write(text)
        file.flush()
        checked = subprocess.run([sagad, "config", "check", "--config", file.name], capture_output=True, text=True)
        holds(checked.returncode == 0, f"sagad config check: {checked.stderr}")

    for problem in problems:
        print(f"does not hold: {problem}", file=sys.stderr)
    print(f"{len(objects)} objects, {len(problems)} problems")
    sys.exit(bool(problems))


main()
