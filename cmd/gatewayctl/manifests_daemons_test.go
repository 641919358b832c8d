package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cloud-provider-haproxy/test/lab"
)

// What a distribution ships: RHEL's example of keepalived is MASTER of router ID 51 with addresses of its own.
const shippedExample = `! Configuration File for keepalived
vrrp_instance VI_1 {
    state MASTER
    interface eth0
    virtual_router_id 51
}
`

// Before HAProxy starts our table of before the boot is loaded; one that is there is left alone. What nft is told is what the drop-in has.
func TestTheTableIsThereBeforeHAProxy(t *testing.T) {
	lab.RequirePrograms(t, "sh")
	text := manifest(t, filepath.Join("haproxy.service.d", "cloud-provider-haproxy.conf"))
	before := regexp.MustCompile(`(?m)^ExecStartPre=-/bin/sh -c '(.*)'$`).FindStringSubmatch(string(text))
	if before == nil {
		t.Fatal("nothing is done before HAProxy starts")
	}
	const list, load = "--terse list table inet cloud_provider_haproxy\n", "--file /var/lib/gatewayctl/front.nft\n"
	for there, want := range map[string]string{"0": list, "1": list + load} {
		directory := t.TempDir()
		script := "#!/bin/sh\necho \"$@\" >>" + directory + "/said\ncase $1 in --terse) exit " + there + ";; esac\n"
		if err := os.WriteFile(filepath.Join(directory, "nft"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		command := exec.Command("/bin/sh", "-c", before[1])
		command.Env = []string{"PATH=" + directory}
		output, err := command.CombinedOutput()
		said, _ := os.ReadFile(filepath.Join(directory, "said"))
		if err != nil || string(said) != want {
			t.Errorf("nft list ends with %s: nft is told %q, want %q; %v %s", there, said, want, err, output)
		}
	}
}

// HAProxy and keepalived start with the files that the agent wrote, and not with a distribution's example. The conditions are run as
// systemd would run them, and systemd reads the drop-ins.
func TestGatewayDaemonsStartWithOurs(t *testing.T) {
	lab.RequirePrograms(t, "grep", "systemd-analyze")
	for unit, rendered := range map[string]string{
		"haproxy":    "../../loadbalancer/haproxy/testdata/empty/haproxy.cfg",
		"keepalived": "../../loadbalancer/keepalived/testdata/names.conf",
	} {
		text := manifest(t, filepath.Join(unit+".service.d", "cloud-provider-haproxy.conf"))
		condition := regexp.MustCompile(`(?m)^ExecCondition=(/usr/bin/grep) (-q) "(.*)" (/etc/.*)$`).FindStringSubmatch(string(text))
		if condition == nil {
			t.Fatalf("%s has no condition", unit)
		}
		example := filepath.Join(t.TempDir(), "example")
		if err := os.WriteFile(example, []byte(shippedExample), 0o644); err != nil {
			t.Fatal(err)
		}
		for file, want := range map[string]bool{rendered: true, example: false, example + ".absent": false} {
			if err := exec.Command("grep", condition[2], condition[3], file).Run(); (err == nil) != want {
				t.Errorf("%s would start with %s: %t", unit, file, err == nil)
			}
		}
		directory := t.TempDir()
		dropIn := filepath.Join(directory, unit+".service.d")
		if err := os.Mkdir(dropIn, 0o755); err != nil {
			t.Fatal(err)
		}
		service := filepath.Join(directory, unit+".service")
		for file, content := range map[string]string{service: "[Service]\nExecStart=/bin/true\n", filepath.Join(dropIn, "ours.conf"): string(text)} {
			if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		output, err := exec.Command("systemd-analyze", "verify", "--recursive-errors=no", service).CombinedOutput()
		if err != nil || strings.TrimSpace(string(output)) != "" {
			t.Errorf("systemd-analyze verify: %v\n%s", err, output)
		}
	}
}
