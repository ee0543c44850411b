package ssh

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"commissaire/domain/event"
)

const boot = "0f0e0d0c-1111-2222-3333-444444444444"

func TestFacts(t *testing.T) {
	for name, c := range map[string]struct {
		answer answer
		want   event.Facts
		why    string
	}{
		"fedora with btrfs and a snap": {
			answer: answer{
				"os-release": "NAME=\"Fedora Linux\"\nID=fedora\nVERSION_ID=41\n",
				"boot-id":    boot + "\n", "cpus": "4\n", "machine": "x86_64\n", "kernel": "6.11.4-300.fc41.x86_64\n",
				"memory": "MemTotal:       16303240 kB\n",
				"space": "Filesystem     1024-blocks     Used Available Capacity Mounted on\n" +
					"devtmpfs              4096        0      4096       0% /dev\n" +
					"/dev/sda2        100000000 20000000  80000000      20% /\n" +
					"/dev/sda2        100000000 20000000  80000000      20% /home\n" +
					"/dev/loop0           50000    50000         0     100% /snap/x\n" +
					"nas:/export      900000000        0 900000000       0% /mnt\n" +
					"/dev/sda1          1000000   200000    800000      20% /boot with space\n",
			},
			want: event.Facts{OS: "fedora", OSRelease: "fedora 41", Version: "41 6.11.4-300.fc41.x86_64", CPUs: 4, Memory: 16303240, Space: 101000000, Arch: "x86_64", BootID: boot},
		},
		"rhel with a newer kernel": {
			answer: answer{
				"os-release": "ID=rhel\nVERSION_ID=7.9\n", "boot-id": boot, "kernel": "3.10.0-1160.el7.x86_64\n",
				"kernels": "3.10.0-1160.119.1.el7.x86_64\n3.10.0-1160.el7.x86_64\n3.10.0-957.el7.x86_64\n",
			},
			want: event.Facts{OS: "rhel", OSRelease: "rhel 7.9", Version: "7.9 3.10.0-1160.el7.x86_64", Pending: "7.9 3.10.0-1160.119.1.el7.x86_64", BootID: boot},
		},
		"rhel on its newest kernel": {
			answer: answer{
				"os-release": "ID=rhel\nVERSION_ID=7.9\n", "boot-id": boot, "kernel": "3.10.0-1160.119.1.el7.x86_64\n",
				"kernels": "3.10.0-1160.el7.x86_64\n3.10.0-1160.119.1.el7.x86_64\n",
			},
			want: event.Facts{OS: "rhel", OSRelease: "rhel 7.9", Version: "7.9 3.10.0-1160.119.1.el7.x86_64", BootID: boot},
		},
		"atomic with an upgrade waiting": {
			answer: answer{
				"os-release": "ID=\"centos\"\nVERSION_ID=\"7\"\n", "boot-id": boot,
				"rpm-ostree": `{"deployments":[{"booted":false,"version":"7.2"},{"booted":true,"version":"7.1","checksum":"abc"},{"version":"7.0"}],"transaction":null}`,
			},
			want: event.Facts{OS: "atomic", OSRelease: "centos 7", OSTree: true, Version: "7.1", Pending: "7.2", BootID: boot},
		},
		"atomic without version, with an older deployment": {
			answer: answer{"os-release": "ID=fedora", "boot-id": boot, "rpm-ostree": `{"deployments":[{"booted":true,"checksum":"abc"},{"version":"7.0"}]}`},
			want:   event.Facts{OS: "atomic", OSRelease: "fedora", OSTree: true, Version: "abc", BootID: boot},
		},
		"sizes that cannot be": {
			answer: answer{
				"os-release": "ID=arch", "boot-id": boot, "cpus": "-1", "memory": "MemTotal: 99999999999999999999999 kB",
				"space": "/dev/a 9223372036854775807 0 0 0% /\n/dev/b 1125899906842624 0 0 0% /\n/dev/c 1125899906842624 0 0 0% /\n",
			},
			want: event.Facts{OS: "arch", OSRelease: "arch", BootID: boot, Space: maxBytes},
		},
		"text that is not":                     {answer: answer{"os-release": "ID='a\x1b[31m\xffb'", "boot-id": boot}, want: event.Facts{OS: "a[31m\uFFFDb", OSRelease: "a[31m\uFFFDb", BootID: boot}},
		"no os-release":                        {answer: answer{"boot-id": boot}, why: "its /etc/os-release has no ID"},
		"no boot id":                           {answer: answer{"os-release": "ID=fedora"}, why: "its boot id cannot be read"},
		"rpm-ostree fails":                     {answer: answer{"os-release": "ID=fedora", "boot-id": boot, "rpm-ostree": ""}, why: "its rpm-ostree status cannot be read"},
		"nothing booted":                       {answer: answer{"os-release": "ID=fedora", "boot-id": boot, "rpm-ostree": `{"deployments":[{}]}`}, why: "none of its 1 deployments is the booted one"},
		"a boot id with more than a boot id":   {answer: answer{"os-release": "ID=fedora", "boot-id": boot + "\n" + boot}, why: "its boot id cannot be read"},
		"a deployment without name or content": {answer: answer{"os-release": "ID=fedora", "boot-id": boot, "rpm-ostree": `{"deployments":[{"booted":true}]}`}, why: "its booted deployment has neither version nor checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			facts, err := parseFacts(c.answer)
			if c.why != "" {
				if err == nil || err.Error() != c.why {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil || facts != c.want {
				t.Errorf("%+v, %v", facts, err)
			}
		})
	}
}

func FuzzFacts(f *testing.F) {
	f.Add("ID=fedora\nVERSION_ID=41", boot, "MemTotal: 1 kB", "/dev/a 1 1 1 1% /", `{"deployments":[{"booted":true,"version":"1"}]}`, true)
	f.Add("ID=\"a\\\"b\"\nVERSION_ID='", boot, "MemTotal:", "/dev/a", "{", false)
	f.Fuzz(func(t *testing.T, release, id, memory, space, status string, ostree bool) {
		a := answer{"os-release": release, "boot-id": id, "memory": memory, "space": space, "kernel": memory, "machine": space, "cpus": id}
		if ostree {
			a["rpm-ostree"] = status
		}
		facts, err := parseFacts(a)
		if err != nil {
			return
		}
		for _, text := range []string{facts.OS, facts.OSRelease, facts.Version, facts.Arch, facts.BootID, facts.Pending} {
			if len(text) > 2*maxText || !utf8.ValidString(text) || strings.ContainsAny(text, "\x00\n\x1b") {
				t.Errorf("%q", text)
			}
		}
		if facts.OS == "" || facts.BootID == "" || ostree != facts.OSTree ||
			facts.Memory < 0 || facts.Memory > maxBytes || facts.Space < 0 || facts.Space > maxBytes || facts.CPUs < 0 || facts.CPUs > maxCPUs {
			t.Errorf("%+v", facts)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("noise\nm begin\n\nm state\nexit 0\n\nm size\n3\n\nm sha256\nx\n\nm tail\na\xff\n\nm end\n"), 7)
	f.Fuzz(func(t *testing.T, text []byte, chunk int) {
		if chunk < 1 || chunk > 1<<16 {
			return
		}
		whole, err := readAnswer(bytes.NewReader(text), "m", nil, nil)
		parts, err2 := readAnswer(&inChunks{bytes.NewReader(text), chunk}, "m", nil, nil)
		if (err == nil) != (err2 == nil) || len(whole) != len(parts) {
			t.Errorf("read at once %v, in parts %v", err, err2)
		}
		if err != nil {
			return
		}
		if result, err := parseResult(whole); err == nil {
			if len(result.Said) > maxReason || !utf8.ValidString(result.Said) || len(result.Interrupted) > maxText || result.Output.Size < 0 {
				t.Errorf("%+v", result)
			}
		}
	})
}

// inChunks reads at most n bytes at once.
type inChunks struct {
	r *bytes.Reader
	n int
}

func (c *inChunks) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), c.n)]) }
