/* Preloaded into every process of a build: counts the calls that touch files below a folder, in all processes
 * together, and lets one of them (or every one from there on) fail, or kills the process in it; and moves the
 * wall clock. Calls that the C library makes to itself (inside fopen) are not seen: Python, Rust and SQLite make
 * none of those.
 *
 *   FAULT_CONTROL  a file that holds `struct control`, mapped by all
 *   FAULT_FOLDER   absolute path; files below it count
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT, FAIL_ONCE, FAIL_ON, KILL };

struct control {
    _Atomic int64_t calls;  /* so far */
    int64_t chosen;         /* the call that is hit, from 1 */
    int32_t action;         /* one of the enum */
    int32_t error;          /* errno of a failing call */
    uint32_t kinds;         /* bits of the kinds that count */
    _Atomic int32_t hits;
    int64_t clock_from;     /* the call from which the clock is moved; 0: it is not */
    int64_t clock_seconds;
    char call[32];          /* the first that was hit */
    char path[480];
};

enum {
    WRITE = 1, SIZE = 2, CREATE = 4, RENAME = 8, SYNC = 16, LINK = 32, FOLDER = 64, REMOVE = 128,
    READ = 256, OPEN = 512, MAP = 1024,
};

static struct control *control;
static const char *folder;
static size_t folder_length;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("FAULT_CONTROL");
    folder = getenv("FAULT_FOLDER");
    if (!name || !folder) return;
    int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int descriptor = real_open(name, O_RDWR | O_CLOEXEC);
    if (descriptor < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    folder_length = strlen(folder);
    if (mapped != MAP_FAILED) control = mapped;
}

static int below(const char *path) {
    return strncmp(path, folder, folder_length) == 0 && (path[folder_length] == '/' || !path[folder_length]);
}

static int path_of(int descriptor, char *into) {
    char name[40];
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(name, into, PATH_MAX - 1);
    if (length <= 0) return 0;
    into[length] = 0;
    return 1;
}

static int path_at(int at, const char *path, char *into) {
    if (path[0] == '/') {
        snprintf(into, PATH_MAX, "%s", path);
        return 1;
    }
    char start[PATH_MAX];
    if (at == AT_FDCWD ? !getcwd(start, sizeof start) : !path_of(at, start)) return 0;
    return snprintf(into, PATH_MAX, "%s/%s", start, path) < PATH_MAX;
}

/* Whether this call is to fail; errno is set then. */
static int hit(uint32_t kind, const char *call, const char *path) {
    if (!(control->kinds & kind) || !below(path)) return 0;
    int64_t number = atomic_fetch_add(&control->calls, 1) + 1;
    int chosen = number == control->chosen || (control->action == FAIL_ON && number > control->chosen);
    if (control->action == COUNT || !control->chosen || !chosen) return 0;
    if (atomic_fetch_add(&control->hits, 1) == 0) {
        snprintf(control->call, sizeof control->call, "%s", call);
        snprintf(control->path, sizeof control->path, "%s", path);
    }
    if (control->action == KILL) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    errno = control->error;
    return 1;
}

static int hit_descriptor(uint32_t kind, const char *call, int descriptor) {
    char path[PATH_MAX];
    int before = errno;
    if (!control || !(control->kinds & kind) || !path_of(descriptor, path)) {
        errno = before;
        return 0;
    }
    if (hit(kind, call, path)) return 1;
    errno = before;
    return 0;
}

static int hit_path(uint32_t kind, const char *call, int at, const char *name) {
    char path[PATH_MAX];
    int before = errno;
    if (!control || !(control->kinds & kind) || !name || !path_at(at, name, path)) {
        errno = before;
        return 0;
    }
    if (hit(kind, call, path)) return 1;
    errno = before;
    return 0;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define ON_DESCRIPTOR(kind, type, name, parameters, arguments, failure) \
    type name parameters { \
        REAL(name); \
        if (hit_descriptor(kind, #name, descriptor)) return failure; \
        return real arguments; \
    }

ON_DESCRIPTOR(WRITE, ssize_t, write, (int descriptor, const void *data, size_t size), (descriptor, data, size), -1)
ON_DESCRIPTOR(WRITE, ssize_t, pwrite, (int descriptor, const void *data, size_t size, off_t at),
              (descriptor, data, size, at), -1)
ON_DESCRIPTOR(WRITE, ssize_t, pwrite64, (int descriptor, const void *data, size_t size, off64_t at),
              (descriptor, data, size, at), -1)
ON_DESCRIPTOR(WRITE, ssize_t, writev, (int descriptor, const struct iovec *parts, int count),
              (descriptor, parts, count), -1)
ON_DESCRIPTOR(WRITE, ssize_t, sendfile, (int descriptor, int source, off_t *at, size_t size),
              (descriptor, source, at, size), -1)
ON_DESCRIPTOR(WRITE, ssize_t, sendfile64, (int descriptor, int source, off64_t *at, size_t size),
              (descriptor, source, at, size), -1)
ON_DESCRIPTOR(SIZE, int, ftruncate, (int descriptor, off_t size), (descriptor, size), -1)
ON_DESCRIPTOR(SIZE, int, ftruncate64, (int descriptor, off64_t size), (descriptor, size), -1)
ON_DESCRIPTOR(SIZE, int, fallocate, (int descriptor, int mode, off_t at, off_t size),
              (descriptor, mode, at, size), -1)
ON_DESCRIPTOR(SIZE, int, fallocate64, (int descriptor, int mode, off64_t at, off64_t size),
              (descriptor, mode, at, size), -1)
ON_DESCRIPTOR(SIZE, int, posix_fallocate, (int descriptor, off_t at, off_t size), (descriptor, at, size), errno)
ON_DESCRIPTOR(SIZE, int, posix_fallocate64, (int descriptor, off64_t at, off64_t size), (descriptor, at, size),
              errno)
ON_DESCRIPTOR(SYNC, int, fsync, (int descriptor), (descriptor), -1)
ON_DESCRIPTOR(SYNC, int, fdatasync, (int descriptor), (descriptor), -1)
ON_DESCRIPTOR(READ, ssize_t, read, (int descriptor, void *data, size_t size), (descriptor, data, size), -1)
ON_DESCRIPTOR(READ, ssize_t, pread, (int descriptor, void *data, size_t size, off_t at),
              (descriptor, data, size, at), -1)
ON_DESCRIPTOR(READ, ssize_t, pread64, (int descriptor, void *data, size_t size, off64_t at),
              (descriptor, data, size, at), -1)
ON_DESCRIPTOR(READ, ssize_t, readv, (int descriptor, const struct iovec *parts, int count),
              (descriptor, parts, count), -1)
ON_DESCRIPTOR(READ, ssize_t, preadv, (int descriptor, const struct iovec *parts, int count, off_t at),
              (descriptor, parts, count, at), -1)
ON_DESCRIPTOR(READ, ssize_t, preadv64, (int descriptor, const struct iovec *parts, int count, off64_t at),
              (descriptor, parts, count, at), -1)

ssize_t copy_file_range(int source, off64_t *from, int descriptor, off64_t *at, size_t size, unsigned flags) {
    REAL(copy_file_range);
    if (hit_descriptor(WRITE, "copy_file_range", descriptor)) return -1;
    return real(source, from, descriptor, at, size, flags);
}

#define ON_PATH(kind, type, name, parameters, at, path, arguments) \
    type name parameters { \
        REAL(name); \
        if (hit_path(kind, #name, at, path)) return -1; \
        return real arguments; \
    }

ON_PATH(RENAME, int, rename, (const char *from, const char *to), AT_FDCWD, to, (from, to))
ON_PATH(RENAME, int, renameat, (int at, const char *from, int to_at, const char *to), to_at, to,
        (at, from, to_at, to))
ON_PATH(RENAME, int, renameat2, (int at, const char *from, int to_at, const char *to, unsigned flags), to_at, to,
        (at, from, to_at, to, flags))
ON_PATH(LINK, int, link, (const char *from, const char *to), AT_FDCWD, to, (from, to))
ON_PATH(LINK, int, linkat, (int at, const char *from, int to_at, const char *to, int flags), to_at, to,
        (at, from, to_at, to, flags))
ON_PATH(LINK, int, symlink, (const char *text, const char *to), AT_FDCWD, to, (text, to))
ON_PATH(FOLDER, int, mkdir, (const char *path, mode_t mode), AT_FDCWD, path, (path, mode))
ON_PATH(FOLDER, int, mkdirat, (int at, const char *path, mode_t mode), at, path, (at, path, mode))
ON_PATH(REMOVE, int, unlink, (const char *path), AT_FDCWD, path, (path))
ON_PATH(REMOVE, int, unlinkat, (int at, const char *path, int flags), at, path, (at, path, flags))
ON_PATH(REMOVE, int, rmdir, (const char *path), AT_FDCWD, path, (path))

#define OPEN_CALL(name, parameters, at, arguments) \
    int name parameters { \
        REAL(name); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | __O_TMPFILE)) { \
            va_list more; \
            va_start(more, flags); \
            mode = va_arg(more, mode_t); \
            va_end(more); \
        } \
        if (hit_path(flags & O_CREAT ? CREATE : OPEN, #name, at, path)) return -1; \
        return real arguments; \
    }

OPEN_CALL(open, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN_CALL(open64, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN_CALL(openat, (int at, const char *path, int flags, ...), at, (at, path, flags, mode))
OPEN_CALL(openat64, (int at, const char *path, int flags, ...), at, (at, path, flags, mode))

static void *map(void *(*real)(void *, size_t, int, int, int, off64_t), void *where, size_t size, int protection,
                 int flags, int descriptor, off64_t at) {
    int written = (protection & PROT_WRITE) && (flags & MAP_SHARED);
    if (descriptor >= 0 && hit_descriptor(written ? MAP : READ, written ? "mmap to write" : "mmap", descriptor))
        return MAP_FAILED;
    return real(where, size, protection, flags, descriptor, at);
}

void *mmap(void *where, size_t size, int protection, int flags, int descriptor, off_t at) {
    static void *(*real)(void *, size_t, int, int, int, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "mmap64");
    return map(real, where, size, protection, flags, descriptor, at);
}

void *mmap64(void *where, size_t size, int protection, int flags, int descriptor, off64_t at) {
    static void *(*real)(void *, size_t, int, int, int, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "mmap64");
    return map(real, where, size, protection, flags, descriptor, at);
}

/* --- the wall clock ------------------------------------------------------------ */

static int64_t jump(void) {
    if (!control || !control->clock_from) return 0;
    return atomic_load(&control->calls) >= control->clock_from ? control->clock_seconds : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += jump();
    return result;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}
