/*
 * Preloaded, it stands in for /dev/udmabuf and /dev/dma_heap on kernels that have neither: what they would hand out as a DMA
 * buffer is anonymous memory here, which maps the same. libcamera's virtual camera writes it with the processor, so that no
 * device ever needs to reach it.
 *
 * The requests are those of Linux's include/uapi/linux/udmabuf.h, dma-heap.h and dma-buf.h.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/udmabuf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

typedef int (*open_function)(const char *, int, ...);
typedef int (*ioctl_function)(int, unsigned long, void *);

static int is_stood_in_for(const char *path)
{
	return strcmp(path, "/dev/udmabuf") == 0 || strncmp(path, "/dev/dma_heap/", 14) == 0;
}

static int open_like(const char *name, const char *path, int flags, mode_t mode)
{
	if (is_stood_in_for(path))
		return memfd_create("dma-buffers", MFD_CLOEXEC);
	return ((open_function)dlsym(RTLD_NEXT, name))(path, flags, mode);
}

#define WRAP_OPEN(name)                                      \
	int name(const char *path, int flags, ...)           \
	{                                                    \
		va_list arguments;                           \
		va_start(arguments, flags);                  \
		mode_t mode = va_arg(arguments, mode_t);     \
		va_end(arguments);                           \
		return open_like(#name, path, flags, mode);  \
	}

WRAP_OPEN(open)
WRAP_OPEN(open64)

static int allocate(struct dma_heap_allocation_data *wish)
{
	int memory = memfd_create("dma-buffer", MFD_CLOEXEC);
	if (memory < 0)
		return -1;
	if (ftruncate(memory, (off_t)wish->len) != 0) {
		close(memory);
		return -1;
	}
	wish->fd = (unsigned int)memory;
	return 0;
}

int ioctl(int descriptor, unsigned long request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	if (request == UDMABUF_CREATE)
		return fcntl((int)((struct udmabuf_create *)argument)->memfd, F_DUPFD_CLOEXEC, 0);
	if (request == DMA_HEAP_IOCTL_ALLOC)
		return allocate(argument);
	if (request == DMA_BUF_IOCTL_SYNC || request == DMA_BUF_SET_NAME_A || request == DMA_BUF_SET_NAME_B)
		return 0;
	return ((ioctl_function)dlsym(RTLD_NEXT, "ioctl"))(descriptor, request, argument);
}
