package ssh

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// dnfSettings is how dnf ends where a repository has no key: with all its settings.
const dnfSettings = `
You have enabled checking of packages via GPG keys. This is a good thing.
However, you do not have any GPG public keys installed. You need to download
the keys for packages you wish to install and install them.
You can do that by running the command:
    rpm --import public.gpg.key


Alternatively you can specify the url to the key you would like to use
for a repository in the 'gpgkey' option in a repository section and DNF
will install it for you.

For more information contact your distribution or package provider.

Problem repository: [local]
bandwidth: 0
baseurl: file:///srv/repository
cost: 1000
enabled: 1
gpgcheck: 1
gpgkey:
name: packages of our own
retries: 10
user_agent: libdnf (Debian GNU/Linux 12; generic; Linux.x86_64)
username:
`

// TestWordsThatMatter holds what programs print when they fail.
func TestWordsThatMatter(t *testing.T) {
	for name, c := range map[string]struct{ printed, want string }{
		"nothing":          {"", ""},
		"only blanks":      {"\r\n \t\n----\n\x1b[0m\n", ""},
		"one line":         {"dnf: failed, as it was told to\n", "dnf: failed, as it was told to"},
		"no end of a line": {"first\nlast", "last"},
		"CRLF":             {"one\r\nerror: two\r\nthree\r\n", "error: two … three"},
		"a question":       {"Password: ", "Password"},
		"an update driver": {
			"error: Updates and deployments are driven by Zincati (zincati.service)\nSee zincati's documentation at https://coreos.github.io/zincati/\nUse --bypass-driver to bypass Zincati and perform the operation anyways\n",
			"error: Updates and deployments are driven by Zincati (zincati.service) … Use --bypass-driver to bypass Zincati and perform the operation anyways",
		},
		"a transaction of ostree": {
			"note: automatic updates (stage) are enabled\nerror: Transaction in progress: upgrade \n You can cancel the current transaction with `rpm-ostree cancel`\n",
			"error: Transaction in progress: upgrade … You can cancel the current transaction with `rpm-ostree cancel`",
		},
		"ostree, after a bar of progress": {
			"Pulling manifest\rReceiving objects: 1% (1/90)\rReceiving objects: 99% (89/90)\x1b[K\rerror: While pulling fedora:fedora/x86_64/coreos/stable: Server returned status 503\n",
			"error: While pulling fedora:fedora/x86_64/coreos/stable: Server returned status 503",
		},
		"a lock of dpkg": {
			"Reading package lists...\nE: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1312 (unattended-upgr)\nN: Be aware that removing the lock file is not a solution and may break your system.\nE: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?\n",
			"E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1312 (unattended-upgr) … E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?",
		},
		"a dead mirror of apt": {
			"Err:1 http://mirror.example bookworm InRelease\n  Could not resolve 'mirror.example'\nReading package lists...\nE: Failed to fetch http://mirror.example/dists/bookworm/InRelease  Could not resolve 'mirror.example'\nE: Some index files failed to download. They have been ignored, or old ones used instead.\n",
			"E: Failed to fetch http://mirror.example/dists/bookworm/InRelease Could not resolve 'mirror.example' … E: Some index files failed to download. They have been ignored, or old ones used instead.",
		},
		"a failing postinst": {
			"Setting up acme-agent (2.0) ...\nacme: no route to the licence server\ndpkg: error processing package acme-agent (--configure):\n installed acme-agent package post-installation script subprocess returned error exit status 1\nProcessing triggers for man-db (2.11.2-2) ...\nErrors were encountered while processing:\n acme-agent\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n",
			"dpkg: error processing package acme-agent (--configure): installed acme-agent package post-installation script subprocess returned error exit status 1 … E: Sub-process /usr/bin/dpkg returned an error code (1)",
		},
		"dpkg alone": {"Errors were encountered while processing:\n one\n two\n", "Errors were encountered while processing: one two"},
		"dpkg, interrupted": {
			"E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem. \n",
			"E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.",
		},
		"no key of dnf": {dnfSettings, "However, you do not have any GPG public keys installed. You need to download … Problem repository: [local]"},
		"a package that is not signed": {
			"Failed to set locale, defaulting to C.UTF-8\nDownloading Packages:\n(1/1): acme-2.0-1.noarch.rpm    8.1 MB/s |  12 kB     00:00\nPackage acme-2.0-1.noarch.rpm is not signed\nThe downloaded packages were saved in cache until the next successful transaction.\nYou can remove cached packages by executing 'dnf clean packages'.\nError: GPG check FAILED\n",
			"Package acme-2.0-1.noarch.rpm is not signed … Error: GPG check FAILED",
		},
		"a dead mirror of dnf": {
			"Errors during downloading metadata for repository 'updates':\n  - Curl error (6): Couldn't resolve host name for https://mirror.example/repodata/repomd.xml [Could not resolve host: mirror.example]\nError: Failed to download metadata for repo 'updates': Cannot download repomd.xml\n",
			"Errors during downloading metadata for repository 'updates': - Curl error (6): Couldn't resolve host name for https://mirror.example/repodata/repomd.xml [Could not resolve host: mirror.example] … Error: Failed to download metadata for repo 'updates': Cannot download repomd.xml",
		},
		"dependencies of dnf": {
			"Error: \n Problem: package acme-2.0-1.noarch requires libacme >= 2, but none of the providers can be installed\n  - conflicting requests\n(try to add '--skip-broken' to skip uninstallable packages)\n",
			"Error: Problem: package acme-2.0-1.noarch requires libacme >= 2, but none of the providers can be installed - conflicting requests … (try to add '--skip-broken' to skip uninstallable packages)",
		},
		"a scriptlet of rpm": {
			"error: %prein(acme-2.0-1.noarch) scriptlet failed, exit status 1\nError in PREIN scriptlet in rpm package acme\nFailed:\n  acme-2.0-1.noarch\n\nError: Transaction failed\n",
			"error: %prein(acme-2.0-1.noarch) scriptlet failed, exit status 1 … Error: Transaction failed",
		},
		"docker": {
			"Unable to find image 'registry.example/acme:2' locally\ndocker: Error response from daemon: manifest for registry.example/acme:2 not found: manifest unknown: manifest unknown.\nSee 'docker run --help'.\n",
			"Unable to find image 'registry.example/acme:2' locally … docker: Error response from daemon: manifest for registry.example/acme:2 not found: manifest unknown: manifest unknown.",
		},
		"podman": {
			`time="2026-11-29T20:00:00Z" level=warning msg="The input device is not a TTY"` + "\nError: initializing source docker://registry.example/acme:2: reading manifest 2 in registry.example/acme: unauthorized: authentication required\n",
			"Error: initializing source docker://registry.example/acme:2: reading manifest 2 in registry.example/acme: unauthorized: authentication required",
		},
		"systemd": {
			"Job for flanneld.service failed because the control process exited with error code.\nSee \"systemctl status flanneld.service\" and \"journalctl -xeu flanneld.service\" for details.\n",
			"Job for flanneld.service failed because the control process exited with error code.",
		},
		"python": {
			"Traceback (most recent call last):\n  File \"/usr/bin/yum\", line 5, in <module>\n    import yummain\nModuleNotFoundError: No module named 'yummain'\n",
			"ModuleNotFoundError: No module named 'yummain'",
		},
		"curl": {
			"  % Total    % Received % Xferd  Average Speed\r  0     0    0     0    0     0      0      0 --:--:--\rcurl: (7) Failed to connect to localhost port 80: Connection refused\n",
			"curl: (7) Failed to connect to localhost port 80: Connection refused",
		},
		"a full disk":        {"Error: Transaction test error:\n  installing package kernel-core-6.1 needs 40MB more space on the /boot filesystem\n\nError Summary\n-------------\n", "Error: Transaction test error: installing package kernel-core-6.1 needs 40MB more space on the /boot filesystem … Error Summary"},
		"another user":       {"Please login as the user \"ubuntu\" rather than the user \"root\".\n\n", `Please login as the user "ubuntu" rather than the user "root".`},
		"an expired one":     {"WARNING: Your password has expired.\nPassword change required but no TTY available.\n", "Password change required but no TTY available."},
		"no shell":           {"This account is currently not available.\n", "This account is currently not available."},
		"sudo":               {"sudo: unable to resolve host web-1: Name or service not known\nsudo: a password is required\n", "sudo: a password is required"},
		"only a warning":     {"bash: warning: setlocale: LC_ALL: cannot change locale (de_DE.UTF-8)\n", "bash: warning: setlocale: LC_ALL: cannot change locale (de_DE.UTF-8)"},
		"a package of names": {"dpkg: error processing package locales (--configure):\n dependency problems - leaving unconfigured\n", "dpkg: error processing package locales (--configure): dependency problems - leaving unconfigured"},
		"another language":   {"Holen:1 http://spiegel.example\nFehler: die Quelle ist nicht erreichbar\nAbbruch.\n", "Fehler: die Quelle ist nicht erreichbar … Abbruch."},
		"colours and titles": {"\x1b]0;owned\a\x1b[1;31merror:\x1b[0m no \x1b[4mspace\x1b[24m left\n\u009b2J", "error: no space left"},
		"not UTF-8":          {"\xff\xfe\x00error: \xe4\xb8 gone\n", "\uFFFDerror: \uFFFD gone"},
		"no letters at all":  {"ошибка: нет места на устройстве\nготово\n", "ошибка: нет места на устройстве … готово"},
		"a long line":        {strings.Repeat("#", 1<<20) + "dnf: failed, as it was told to", strings.Repeat("#", 198) + "…" + strings.Repeat("#", 69) + "dnf: failed, as it was told to"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := words(c.printed); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			var said saying // however it comes
			for i := 0; i < len(c.printed); i += 7 {
				said.addFrom(int64(max(0, i-3)), []byte(c.printed[max(0, i-3):min(len(c.printed), i+7)]))
			}
			if got := said.String(); got != c.want {
				t.Errorf("piece by piece: %s", got)
			}
		})
	}
}

func TestTheFirstErrorIsFoundHoweverFarItIsFromTheEnd(t *testing.T) {
	var said saying
	said.add("error: no space left on device\n")
	for i := range 10_000 {
		said.add(fmt.Sprintf("cleaning up %d\n", i))
	}
	if got := said.String(); got != "error: no space left on device … cleaning up 9999" {
		t.Error(got)
	}
	said.addFrom(1<<40, []byte("after what nobody saw\n"))
	if got := said.String(); got != "error: no space left on device … after what nobody saw" {
		t.Error(got)
	}
}

// TestNoLineIsPassedOver has a word of each kind in all places where it matters.
func TestNoLineIsPassedOver(t *testing.T) {
	for _, line := range []string{
		"E: x", "fatal: x", "sudo: error: x", "Errors were found", "panic! x", "Fehler: x", "erreur: x", "Errore: x", "fout: x", "fel: x", "ошибка: x", "错误: x", "エラー: x",
		"os.PathError: x", "java.io.IOException: x", "level=fatal", "an ERROR", "a FATAL one", "is CRITICAL",
	} {
		if !mistake.MatchString(line) || words(line+"\nx\ny") != line+" … y" {
			t.Errorf("%q is no error: %q", line, words(line+"\nx\ny"))
		}
	}
	for _, line := range []string{
		"x failed", "it fails", "a failure", "cannot x", "can't x", "could not x", "couldn't x", "unable to x", "does not x", "do not x", "did not x", "no such x", "no space",
		"nothing provides x", "not found", "is not installed", "not signed", "denied", "refused", "rejected", "timed out", "a timeout", "time-out", "unreachable", "unauthorized",
		"unauthorised", "forbidden", "invalid", "missing", "expired", "unmet", "conflicts", "corrupted", "killed", "aborted",
	} {
		if !failing.MatchString(line) || words(line+"\nx\ny") != line+" … y" {
			t.Errorf("%q is no failure: %q", line, words(line+"\nx\ny"))
		}
	}
	for _, line := range []string{
		"W: x", "N: x", "I: x", "warning: x", "x: warning: y", "[WARN] x", "NOTICE: x", "note: x", "info x", "debug: x", "Setting locale", "debconf: x", "sudo: unable to resolve host x",
		"See 'x --help'", "Try x --help", "Run x for more information", "Use x for details", "usage: x --help", "For more information x", "[section]",
	} {
		if !aside.MatchString(line) || words("x\n"+line) != "x" {
			t.Errorf("%q says something: %q", line, words("x\n"+line))
		}
	}
}

func FuzzWordsAreOneLineThatCanBeStored(f *testing.F) {
	for _, text := range []string{dnfSettings, "error: a\nb", "a:\n b\n c", "\xff\x1b[", strings.Repeat("语言", 500) + "\nerror: " + strings.Repeat("é", 500)} {
		f.Add(text, 5)
	}
	f.Fuzz(func(t *testing.T, text string, size int) {
		var said saying
		for piece := range slices.Chunk([]byte(text), max(1, size)) {
			said.add(string(piece))
		}
		for _, got := range []string{words(text), said.String()} {
			if len(got) > maxReason || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q", got)
			}
			if strings.HasSuffix(got, ":") || got != strings.TrimSpace(got) {
				t.Errorf("%q", got)
			}
		}
		if words(text) != said.String() {
			t.Errorf("in pieces %q, as a whole %q", said.String(), words(text))
		}
	})
}
