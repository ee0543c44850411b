package fleet

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// The programs that tell of the machine.

func date(_ context.Context, p *process, args []string) int {
	now := p.host.fleet.clock.now().UTC()
	format := "%Y-%m-%dT%H:%M:%S%z"
	for _, arg := range args {
		switch {
		case arg == "-u":
		case strings.HasPrefix(arg, "+"):
			format = arg[1:]
		default:
			return p.complain("date", fmt.Errorf("invalid argument: %s", arg))
		}
	}
	fmt.Fprintln(p.stdout, strings.NewReplacer(
		"%%", "%", "%s", strconv.FormatInt(now.Unix(), 10), "%N", fmt.Sprintf("%09d", now.Nanosecond()),
		"%F", now.Format("2006-01-02"), "%T", now.Format("15:04:05"),
		"%Y", now.Format("2006"), "%m", now.Format("01"), "%d", now.Format("02"),
		"%H", now.Format("15"), "%M", now.Format("04"), "%S", now.Format("05"), "%z", "+0000", "%Z", "UTC",
	).Replace(format))
	return 0
}

func df(_ context.Context, p *process, args []string) int {
	if _, _, err := options(args, "Pkl"); err != nil {
		return p.complain("df", err)
	}
	disk := p.host.spec.Disk
	fmt.Fprintln(p.stdout, "Filesystem     1024-blocks    Used Available Capacity Mounted on")
	line := func(device string, size int64, mount string) {
		fmt.Fprintf(p.stdout, "%-14s %11d %7d %9d %7d%% %s\n", device, size, size/4, size-size/4, 25, mount)
	}
	line("devtmpfs", p.host.spec.Memory/2, "/dev")
	line("tmpfs", p.host.spec.Memory/2, "/run")
	line("/dev/vda2", disk-(1<<20), "/")
	if p.host.spec.OSTree { // one device, mounted more than once
		line("/dev/vda2", disk-(1<<20), "/sysroot")
		line("/dev/vda2", disk-(1<<20), "/var")
	}
	line("/dev/vda1", 1<<20, "/boot")
	return 0
}

func id(_ context.Context, p *process, args []string) int {
	given, _, err := options(args, "ugn")
	switch {
	case err != nil:
		return p.complain("id", err)
	case has(given, 'n'):
		fmt.Fprintln(p.stdout, p.user)
	case len(given) > 0:
		fmt.Fprintln(p.stdout, p.uid)
	default:
		fmt.Fprintf(p.stdout, "uid=%d(%s) gid=%d(%s) groups=%d(%s)\n", p.uid, p.user, p.uid, p.user, p.uid, p.user)
	}
	return 0
}

func hostname(_ context.Context, p *process, _ []string) int {
	fmt.Fprintln(p.stdout, "host-"+strings.ReplaceAll(p.host.spec.Address, ".", "-"))
	return 0
}

func nproc(_ context.Context, p *process, _ []string) int {
	fmt.Fprintln(p.stdout, p.host.spec.CPUs)
	return 0
}

func uname(_ context.Context, p *process, args []string) int {
	given, _, err := options(args, "smrn")
	if err != nil {
		return p.complain("uname", err)
	}
	var words []string
	for _, w := range []struct {
		letter byte
		word   string
	}{{'s', "Linux"}, {'n', "host-" + strings.ReplaceAll(p.host.spec.Address, ".", "-")}, {'r', p.host.kernel()}, {'m', p.host.spec.Arch}} {
		if has(given, w.letter) || len(given) == 0 && w.letter == 's' {
			words = append(words, w.word)
		}
	}
	fmt.Fprintln(p.stdout, strings.Join(words, " "))
	return 0
}
