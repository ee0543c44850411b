package ssh

import (
	"slices"
	"strings"
	"testing"

	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"
)

func TestSystemsBelongToTheFamilyThatTheyAreLike(t *testing.T) {
	for release, want := range map[string]string{
		"ID=fedora": "dnf", "ID=rhel\nID_LIKE=fedora": "yum", "ID=\"centos\"\nID_LIKE=\"rhel fedora\"": "yum",
		"ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"": "yum", "ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"": "yum",
		"ID=\"ol\"\nID_LIKE=\"fedora\"": "dnf", "ID=\"amzn\"\nID_LIKE=\"centos rhel fedora\"": "yum", "ID=\"amzn\"\nID_LIKE=\"fedora\"": "dnf",
		"ID=nobara\nID_LIKE=\"rhel centos fedora\"": "yum", "ID=raspbian\nID_LIKE=debian": "apt-get", "ID=linuxmint\nID_LIKE=\"ubuntu debian\"": "apt-get",
		"ID=pop\nID_LIKE=\"ubuntu debian\"": "apt-get", "ID=arch": "", "ID=manjaro\nID_LIKE=arch": "", "ID=alpine": "", "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"": "", "NAME=x": "",
	} {
		facts, err := parseFacts(answer{"os-release": release, "boot-id": boot, "programs": "apt-get\ndnf\nyum\n"})
		if err != nil {
			t.Fatal(err)
		}
		tool, problem := toolOf(facts)
		if tool.program != want || (problem == "") != (want != "") {
			t.Errorf("%q is brought up to date by %q, %q", release, tool.program, problem)
		}
	}
	for programs, want := range map[string]string{"dnf": "dnf", "yum": "yum", "dnf yum": "yum", "": "yum", "systemctl": ""} {
		if tool, _ := toolOf(event.Facts{OS: "rocky", Like: "rhel", Programs: programs}); tool.program != want {
			t.Errorf("with %q it is %q", programs, tool.program)
		}
	}
}

func TestAPlanSaysWhatCannotBeDone(t *testing.T) {
	coreos := event.Facts{OS: "atomic", OSTree: true, Programs: "rpm-ostree systemctl", UpdateDriver: "Zincati"}
	bootc := event.Facts{OS: "atomic", OSRelease: "fedora 41", OSTree: true, Programs: "bootc dnf systemctl"}
	bypass := event.Policy{BypassDriver: true, Stage: true}
	for name, c := range map[string]struct {
		kind     domain.OperationKind
		policy   event.Policy
		facts    event.Facts
		commands []string
		skip     string
		problem  string // the beginning
	}{
		"an update driver":             {domain.Upgrade, event.Policy{}, coreos, nil, "", "its updates are driven by Zincati: start the upgrade with \"bypass_driver\": true"},
		"an update driver, on deploy":  {domain.Deploy, event.Policy{Stage: true}, coreos, nil, "", "its updates are driven by Zincati: start the deploy with"},
		"an update driver, on restart": {domain.Restart, event.Policy{}, coreos, []string{"systemctl reboot"}, "", ""},
		"an update driver passed by":   {domain.Upgrade, bypass, coreos, []string{"rpm-ostree upgrade --bypass-driver --download-only", "rpm-ostree upgrade --bypass-driver --cache-only"}, "", ""},
		"one that is not there": {
			domain.Deploy, bypass, event.Facts{OS: "atomic", OSTree: true}, []string{"rpm-ostree deploy --download-only -- 41.2", "rpm-ostree deploy --cache-only -- 41.2"}, "", "",
		},
		"an image":             {domain.Upgrade, event.Policy{}, bootc, nil, "", "it is made from an image and has no rpm-ostree"},
		"an image, on restart": {domain.Restart, event.Policy{}, bootc, []string{"systemctl reboot"}, "", ""},
		"no tree":              {domain.Deploy, event.Policy{}, event.Facts{OS: "debian"}, nil, "not an ostree host: there is no tree to deploy", ""},
		"unknown":              {domain.Upgrade, event.Policy{}, event.Facts{OS: "arch", OSRelease: "arch"}, nil, "", `"arch" is not supported`},
		"unknown, on restart":  {domain.Restart, event.Policy{}, event.Facts{OS: "arch", OSRelease: "arch"}, []string{"systemctl reboot"}, "", ""},
		"not looked at":        {domain.Restart, event.Policy{}, event.Facts{}, nil, "", "nothing is known of the host yet"},
	} {
		commands, skip, problem := Plan(c.kind, "41.2", c.policy, c.facts)
		if !slices.Equal(commands, c.commands) || skip != c.skip || !strings.HasPrefix(problem, c.problem) || (c.problem == "") != (problem == "") {
			t.Errorf("%s: %q, %q, %q", name, commands, skip, problem)
		}
	}
}

func TestCleaningUpDropsOneDeploymentOnly(t *testing.T) {
	command, _, problem := commandOf(domain.Upgrade, process.CleanUp, "", false, event.Facts{OS: "atomic", OSTree: true})
	if problem != "" {
		t.Fatal(problem)
	}
	eachShell(t, func(t *testing.T, m *machine) {
		for turn, c := range map[string]struct {
			status string
			drops  bool
		}{
			"ours":   {`{"deployments":[{"base-checksum":"b","checksum" : "ours"},{"booted":true,"checksum":"old"}]}`, true},
			"theirs": {`{"deployments":[{"base-checksum":"ours","checksum" : "theirs"},{"booted":true,"checksum":"old"}]}`, false},
			"none":   {`{"deployments":[{"booted":true,"checksum":"old"},{"checksum":"ours"}]}`, false},
		} {
			m.put(t, "run/calls", "")
			m.put(t, "run/do-rpm-ostree", "[ \"$1\" != status ] || echo '"+c.status+"'")
			m.ask(t, "run", "log", "1", turn, "60", "-", data(wrapped(command)), data("ours"))
			if dropped := slices.Contains(m.calls(), "rpm-ostree cleanup -p"); dropped != c.drops {
				t.Errorf("%s: %q", turn, m.calls())
			}
		}
	})
}
