package fleet

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestNothingOfTheMachineIsSeen(t *testing.T) {
	r, h := one(t, atomicHost)
	client := r.connect(t, h)
	t.Setenv("HOME", "/home/of-the-machine")
	t.Setenv("TMPDIR", t.TempDir())
	runScript(t, client, `mkdir /only-here; echo 'echo "$$"' >/var/pid`)
	for _, c := range []struct{ text, out string }{
		{`cd /only-here; pwd -P; command pwd -P; builtin pwd -P; eval pwd -P; sh -c 'pwd -P'`, strings.Repeat("/only-here\n", 5)},
		{`env -i sh -c 'echo ~ $HOME'`, "/root /root\n"},
		{`systemctl=$(echo '~bin'); echo "~bin" '~bin' \~bin a~bin; cat <<E` + "\n~bin\nE\n", "~bin ~bin ~bin a~bin\n~bin\n"},
		{`a=$$; [ "$(eval 'echo $$')" = "$a" ] && echo same; trap 'echo $$' EXIT; echo $a`, "same\nPID\nPID\n"},
		{`. /var/pid`, "PID\n"},
	} {
		out, _ := runScript(t, client, c.text)
		if strings.Contains(c.out, "PID") {
			for line := range strings.Lines(out) {
				if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid != os.Getpid() && pid > 1000 && pid < 1100 {
					out = strings.ReplaceAll(out, line, "PID\n")
				}
			}
		}
		if out != c.out {
			t.Errorf("%s printed %q, want %q", c.text, out, c.out)
		}
	}
	for _, text := range []string{
		`echo ~bin`, `x=~bin; echo "$x"`, `echo {~bin,x}`, `echo "${y:-~bin}"`, `echo $PPID`, `echo $((PPID))`, `cat <(echo x)`, `echo x > >(cat)`,
	} {
		for _, text := range []string{text, "eval '" + text + "'", "trap '" + text + "' EXIT", "echo '" + text + "' >/var/f; . /var/f"} {
			if out, _ := runScript(t, client, text); !strings.Contains(out, "not simulated") {
				t.Errorf("%s printed %q and is not refused", text, out)
			}
		}
	}
	if left, err := filepath.Glob(os.Getenv("TMPDIR") + "/*"); err != nil || len(left) > 0 {
		t.Errorf("left on the machine: %v %v", left, err)
	}
}
