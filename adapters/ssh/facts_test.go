package ssh

import (
	"bytes"
	"os/exec"
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
			want: event.Facts{OS: "fedora", OSRelease: "fedora 41", Version: "41 6.11.4-300.fc41.x86_64", BootedID: "6.11.4-300.fc41.x86_64", CPUs: 4, Memory: 16303240, Space: 101000000, Arch: "x86_64", BootID: boot},
		},
		"atomic with an upgrade waiting": {
			answer: answer{
				"os-release": "ID=\"centos\"\nVERSION_ID=\"7\"\n", "boot-id": boot,
				"rpm-ostree": `{"deployments":[{"booted":false,"version":"7.2"},{"booted":true,"version":"7.1","checksum":"abc"},{"version":"7.0"}],"transaction":null}`,
			},
			want: event.Facts{OS: "atomic", OSRelease: "centos 7", OSTree: true, Version: "7.1", Pending: "7.2", BootedID: "abc", BootID: boot},
		},
		"atomic without version, with an older deployment": {
			answer: answer{"os-release": "ID=fedora", "boot-id": boot, "rpm-ostree": `{"deployments":[{"booted":true,"checksum":"abc"},{"version":"7.0"}]}`},
			want:   event.Facts{OS: "atomic", OSRelease: "fedora", OSTree: true, Version: "abc", BootedID: "abc", BootID: boot},
		},
		"CoreOS with a locked deployment of Zincati's": {
			answer: answer{
				"os-release": "ID=fedora\nVERSION_ID=41\nVARIANT_ID=coreos\n", "boot-id": boot, "programs": "journalctl\nrpm-ostree\nsystemctl\n",
				"rpm-ostree": `{"deployments":[
					{"booted":false,"staged":true,"finalization-locked":true,"version":"41.2","checksum":"c2","base-checksum":"b2"},
					{"booted":true,"staged":false,"version":"41.1","checksum":"c1"}
				],"transaction":null,"cached-update":null,"update-driver":{"driver-name":"Zincati","driver-sd-unit":"zincati.service"}}`,
			},
			want: event.Facts{
				OS: "atomic", OSRelease: "fedora 41", OSTree: true, Version: "41.1", BootedID: "c1", Pending: "41.2", PendingID: "c2", PendingBase: "b2",
				Locked: true, UpdateDriver: "Zincati", Programs: "journalctl rpm-ostree systemctl", BootID: boot,
			},
		},
		"a host that runs what it had fallen back to": {
			answer: answer{"os-release": "ID=fedora", "boot-id": boot, "rpm-ostree": `{"deployments":[{"version":"41.1","checksum":"new"},{"booted":true,"version":"41.1","checksum":"old"}]}`},
			want:   event.Facts{OS: "atomic", OSRelease: "fedora", OSTree: true, Version: "41.1", BootedID: "old", Pending: "41.1", PendingID: "new", BootID: boot},
		},
		"a host from an image without rpm-ostree": {
			answer: answer{"os-release": "ID=fedora\nVERSION_ID=41\n", "boot-id": boot, "kernel": "6.11.4-301.fc41.x86_64", "ostree": ""},
			want:   event.Facts{OS: "atomic", OSRelease: "fedora 41", OSTree: true, Version: "41 6.11.4-301.fc41.x86_64", BootedID: "6.11.4-301.fc41.x86_64", BootID: boot},
		},
		"rocky, whose boot loader names a newer kernel": {
			answer: answer{
				"os-release": "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"\n", "boot-id": boot, "kernel": "5.14.0-427.el9.x86_64\n",
				"kernels":     "5.14.0-427.el9.x86_64\n5.14.0-503.el9.x86_64\n",
				"boot-loader": "/boot/vmlinuz-5.14.0-503.el9.x86_64\n",
			},
			want: event.Facts{
				OS: "rocky", OSRelease: "rocky 9.4", Like: "rhel centos fedora", Version: "9.4 5.14.0-427.el9.x86_64", BootedID: "5.14.0-427.el9.x86_64",
				Pending: "9.4 5.14.0-503.el9.x86_64", PendingID: "5.14.0-503.el9.x86_64", BootID: boot,
			},
		},
		"ubuntu that wants a reboot": {
			answer: answer{"os-release": "ID=ubuntu\n", "boot-id": boot, "kernel": "6.8.0-50-generic", "reboot-required": "linux-base\nlibc6\nlibc6\n"},
			want: event.Facts{
				OS: "ubuntu", OSRelease: "ubuntu", Version: "6.8.0-50-generic", BootedID: "6.8.0-50-generic",
				RebootNeeded: "there is /run/reboot-required, of libc6, linux-base", BootID: boot,
			},
		},
		"an os-release without an ID": {
			answer: answer{"os-release": "# nothing\n", "boot-id": boot},
			want:   event.Facts{OS: "linux", OSRelease: "linux", BootID: boot},
		},
		"ZFS": {
			answer: answer{"os-release": "ID=debian", "boot-id": boot, "space": "Filesystem 1024-blocks Used Available Capacity Mounted on\n" +
				"udev 4000 0 4000 0% /dev\ntmpfs 800 1 799 1% /run\nrpool/ROOT/debian 70 20 50 29% /\nrpool/home 60 10 50 17% /home\n" +
				"tank 1000 0 1000 0% /tank\nbpool/BOOT/debian 9 1 8 11% /boot\n/dev/sda1 5 1 4 20% /boot/efi\nrun 4 0 4 0% /run\nnas:/export 999 0 999 0% /mnt\n"},
			want: event.Facts{OS: "debian", OSRelease: "debian", Space: 20 + 10 + 50 + 1000 + 9 + 5, BootID: boot},
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

// TestTheNextKernel asks kernels of hosts as they are what the next boot brings.
func TestTheNextKernel(t *testing.T) {
	const v8, old8 = "6.6.74+rpt-rpi-v8", "6.6.51+rpt-rpi-v8"
	for name, c := range map[string]struct {
		running, kernels, loader, packages, want string
	}{
		"nothing is known": {running: "6.1.0-28-amd64"},
		"a Raspberry Pi with both flavours": {
			running: old8, kernels: old8 + "\n6.6.51+rpt-rpi-2712\n", loader: "boot/vmlinuz-6.6.51+rpt-rpi-2712\n",
			packages: "ii  linux-image-" + old8 + "\nii  linux-image-6.6.51+rpt-rpi-2712\nii  linux-image-rpi-v8\n",
		},
		"a Raspberry Pi after an upgrade": {
			running: old8, kernels: old8 + "\n6.6.51+rpt-rpi-2712\n" + v8 + "\n6.6.74+rpt-rpi-2712\n", loader: "boot/vmlinuz-6.6.74+rpt-rpi-2712\n",
			packages: "ii  linux-image-" + old8 + "\nii  linux-image-" + v8 + "\nii  linux-image-6.6.74+rpt-rpi-2712\n", want: v8,
		},
		"a link names it": {running: "6.1.0-28-amd64", kernels: "6.1.0-28-amd64\n6.1.0-31-amd64\n", loader: "boot/vmlinuz-6.1.0-31-amd64\n", want: "6.1.0-31-amd64"},
		"only a package names it": {
			running: "6.8.0-50-generic", kernels: "6.8.0-50-generic\n6.8.0-51-generic\n", want: "6.8.0-51-generic",
			packages: "ii  linux-image-6.8.0-50-generic\nii  linux-image-unsigned-6.8.0-51-generic\n",
		},
		"a package that was removed, and one without an image": {
			running: "6.1.0-28-amd64", kernels: "6.1.0-28-amd64\n6.1.0-31-amd64\n",
			packages: "ii  linux-image-6.1.0-28-amd64\nrc  linux-image-6.1.0-31-amd64\nii  linux-image-6.1.0-32-amd64\n",
		},
		"one that somebody built": {
			running: "6.1.0-28-amd64", kernels: "6.1.0-28-amd64\n6.9.0-amd64\n", loader: "vmlinuz-6.9.0-amd64\n", packages: "ii  linux-image-6.1.0-28-amd64\n",
		},
		"a realtime kernel beside": {
			running: "6.1.0-28-amd64", kernels: "6.1.0-28-amd64\n6.1.0-31-rt-amd64\n", loader: "boot/vmlinuz-6.1.0-31-rt-amd64\n",
			packages: "ii  linux-image-6.1.0-28-amd64\nii  linux-image-6.1.0-31-rt-amd64\n",
		},
		"a debug kernel is the default": {
			running: "6.11.4-301.fc41.x86_64", kernels: "6.11.4-301.fc41.x86_64\n6.11.5-300.fc41.x86_64+debug\n", loader: "/boot/vmlinuz-6.11.5-300.fc41.x86_64+debug\n",
		},
		"the default is the running one, a newer lies there": {
			running: "6.11.4-301.fc41.x86_64", kernels: "6.11.4-301.fc41.x86_64\n6.12.5-200.fc41.x86_64\n", loader: "/boot/vmlinuz-6.11.4-301.fc41.x86_64\n",
		},
		"an entry of the boot loader": {
			running: "6.11.4-301.fc41.x86_64", kernels: "6.11.4-301.fc41.x86_64\n6.12.5-200.fc41.x86_64\n",
			loader: "saved_entry=0123456789abcdef0123456789abcdef-6.12.5-200.fc41.x86_64\n", want: "6.12.5-200.fc41.x86_64",
		},
		"a title of the boot loader": {
			running: "3.10.0-957.el7.x86_64", kernels: "3.10.0-957.el7.x86_64\n3.10.0-1160.el7.x86_64\n",
			loader: "saved_entry=CentOS Linux (3.10.0-1160.el7.x86_64) 7 (Core)\n", want: "3.10.0-1160.el7.x86_64",
		},
		"from outside, newer":             {running: "6.13.1", kernels: "6.1.0-28-amd64\n", loader: "boot/vmlinuz-6.1.0-28-amd64\n", packages: "ii  linux-image-6.1.0-28-amd64\n"},
		"from outside, of this flavour":   {running: "6.12.41+deb13-amd64", kernels: "6.1.0-28-amd64\n", loader: "boot/vmlinuz-6.1.0-28-amd64\n"},
		"from outside, older":             {running: "5.10.0-1-amd64", kernels: "6.1.0-28-amd64\n", loader: "boot/vmlinuz-6.1.0-28-amd64\n"},
		"a number rather than an entry":   {running: "6.1.0-28-amd64", kernels: "6.1.0-28-amd64\n6.1.0-31-amd64\n", loader: "saved_entry=0\n"},
		"a name that another begins with": {running: "6.1.0-3-amd64", kernels: "6.1.0-3-amd64\n16.1.0-3-amd64\n", loader: "boot/vmlinuz-16.1.0-3-amd64\n", want: "16.1.0-3-amd64"},
	} {
		t.Run(name, func(t *testing.T) {
			a := answer{"kernels": c.kernels, "boot-loader": c.loader, "kernel-packages": c.packages}
			if got := nextKernel(c.running, a); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestKernelsOfOneFlavour(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"6.1.0-28-amd64", "6.12.41+deb13-amd64", true},
		{"6.1.0-0.deb11.21-amd64", "6.12.9+bpo-amd64", true},
		{"6.12-rc6-amd64", "6.12.9-amd64", true},
		{"6.1.0-28-amd64", "6.1.0-28-cloud-amd64", false},
		{"6.8.0-50-generic", "6.8.0-50-lowlatency", false},
		{"6.1.21-v7+", "6.1.34-v8+", false},
		{"6.1.21-v8+", "6.1.34-v8+", true},
		{"5.14.0-427.el9.x86_64", "5.14.0-503.11.1.el9_5.x86_64", true},
		{"5.14.0-427.el9.x86_64", "5.14.0-427.el9.x86_64+rt", false},
		{"4.18.0-553.el8.x86_64", "4.18.0-553.rt7.342.el8.x86_64", false},
		{"5.4.17-2136.el8uek.x86_64", "4.18.0-553.el8.x86_64", false},
		{"3.10.0-1160.el7.x86_64", "3.10.0-1160.el7.x86_64.debug", false},
		{"6.11.4-301.fc40.aarch64", "6.12.5-200.fc41.aarch64", true},
	} {
		if same := flavourOf(c.a) == flavourOf(c.b); same != c.same {
			t.Errorf("%s is of flavour %q, %s of %q", c.a, flavourOf(c.a), c.b, flavourOf(c.b))
		}
	}
}

// TestReleasesAreReadAsAShellDoes holds what is read of os-release against a shell.
func TestReleasesAreReadAsAShellDoes(t *testing.T) {
	for _, text := range []string{
		"ID=fedora # comment\n", "ID=fedora#1\n", "# ID=x\nID=fedora\n", "ID='a b'\n", `ID="a\"b\$c\\d` + "\\`" + `e\f"` + "\n", `ID=a\ b` + "\n", "ID=a\nID=b\n",
		"ID=\n", "\n\n\tID=fedora\t\n", "ID=fed\\\nora\n", "ID=a VERSION_ID=b\n", "ID=a;VERSION_ID=b\n", "ID='it'\"'\"'s'\n",
		"ID=\"\"\n", "ID=fedora", "ID='\\n'\n",
	} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", text+"\nprintf '%s|%s' \"$ID\" \"$VERSION_ID\"").Output()
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		release := parseRelease(text)
		if got, want := release["ID"]+"|"+release["VERSION_ID"], strings.ReplaceAll(string(out), "\n", " "); got != want && got != strings.ReplaceAll(want, " ", "") {
			t.Errorf("%q is read as %q, by a shell as %q", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"ID=fedora\r\nVERSION_ID=41\r\n": "fedora", "ID = fedora\n": "", "NAME=\"never closed\nID=fedora\n": "fedora", "echo ID=x\nID=y z\n": "", "1ID=x\n": "",
	} {
		if got := parseRelease(text)["ID"]; got != want {
			t.Errorf("%q is read as %q", text, got)
		}
	}
}

func TestAMachineIDIsOneOrNone(t *testing.T) {
	id := strings.Repeat("0f", 16)
	for text, want := range map[string]string{
		id + "\n": id, strings.ToUpper(id): id, "": "", "uninitialized\n": "", strings.Repeat("0", 32): "", id + "0": "", "rm -rf /": "",
	} {
		if got := parseMachineID(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
