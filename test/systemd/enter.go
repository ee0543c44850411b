package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// inside is the environment variable that tells a test program that it is inside,
// and where the directory of the hosts is.
const inside = "COMMISSAIRE_TEST_HOSTS"

// Enter has the test program do its work where hosts can run: it runs itself
// again, as root of a mount, PID, network and IPC namespace of its own, and exits
// when that ends. In there it returns. tar is the disk that each host begins with.
// Where that cannot be, it says so in one line and exits with success.
func Enter(tar string) {
	if os.Getenv(inside) == "" {
		os.Exit(outside())
	}
	if why, err := prepare(tar); err != nil {
		fmt.Fprintf(os.Stderr, "prepare for real hosts: %v\n", err)
		os.Exit(1)
	} else if why != "" {
		fmt.Printf("%s: the tests on real hosts are left out\n", why)
		os.Exit(0)
	}
}

// outside runs the program again and returns its exit status. All that it leaves
// is gone with the namespaces, however this process ends, but for an empty
// directory and control groups without processes, which are removed here.
func outside() int {
	if os.Getuid() != 0 {
		fmt.Println("not root: the tests on real hosts are left out")
		return 0
	}
	dir, err := os.MkdirTemp("", "commissaire-hosts-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		_ = os.Remove(dir)
		for _, group := range groups(filepath.Base(dir)) {
			removeGroup(group)
		}
	}()
	runtime.LockOSThread() // the death signal is that of the thread
	again := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	again.Env = append(os.Environ(), inside+"="+dir)
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := again.Start(); err != nil {
		fmt.Printf("no namespaces can be made here (%v): the tests on real hosts are left out\n", err)
		return 0
	}
	err = again.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// prepare makes what the hosts share: a disk that is read, a directory for the
// rest, in memory, and a bridge between them. Or says why it cannot be made here.
func prepare(tar string) (why string, err error) {
	dir := os.Getenv(inside)
	for _, step := range []string{
		"mount --make-rprivate /",
		"mount -t proc proc /proc",
		"mount -t tmpfs -o mode=755 tmpfs " + dir,
		"ip link set lo up",
		"ip link add hosts type bridge",
		"ip address add " + gateway + "/24 dev hosts",
		"ip link set hosts up",
		"systemd-nspawn --version",
	} {
		if out, err := run(step); err != nil {
			return strings.ReplaceAll(fmt.Sprintf("%s: %v %s", step, err, out), "\n", " "), nil
		}
	}
	disk := filepath.Join(dir, "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(context.Background(), "tar", "-C", disk, "-xf", tar).CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack %s: %w\n%s", tar, err, out)
	}
	for _, group := range groups(filepath.Base(dir)) {
		if err := os.MkdirAll(group, 0o755); err != nil {
			return err.Error(), nil //nolint:nilerr // why it cannot be made is what was asked
		}
	}
	return "", nil
}

// run runs a command without quotes in it.
func run(line string) (string, error) {
	words := strings.Fields(line)
	out, err := exec.CommandContext(context.Background(), words[0], words[1:]...).CombinedOutput()
	return string(out), err
}

// groups are the control groups of that name, one in each hierarchy that systemd
// looks at.
func groups(name string) (all []string) {
	for _, hierarchy := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(hierarchy, "cgroup.procs")); err == nil {
			all = append(all, filepath.Join(hierarchy, name))
		}
	}
	return all
}

// removeGroup removes a control group and those in it, which have no processes.
func removeGroup(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeGroup(filepath.Join(dir, e.Name()))
		}
	}
	_ = os.Remove(dir)
}
