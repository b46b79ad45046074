/* Counts the instructions that an emulated arm64 program executes, by class, between two marks of its own.
 *
 * A QEMU plugin for user mode. Each translated block keeps how many instructions of each class it holds and how often it ran,
 * so that running costs one addition a block. The program marks a region by two calls of
 *
 *     prctl(ARMCOUNT_MARK, 0)   the region begins
 *     prctl(ARMCOUNT_MARK, n)   it ends: one line of JSON, with n as its number, is appended to the file named by `out=`
 *
 * which the kernel refuses (EINVAL) without harm, so that the same program runs without the plugin too.
 *
 * References:
 *   QEMU, docs/devel/tcg-plugins: the interface, of which the version 1 that QEMU 7.2 speaks is declared here, because
 *   Debian ships no header of it.
 *   Arm Architecture Reference Manual for A-profile (DDI 0487), chapter C4, A64 instruction set encoding.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define ARMCOUNT_MARK 0x41524d43u
#define PRCTL_ARM64 167

typedef uint64_t plugin_id;
struct qemu_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int flags, void *);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                              uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

EXPORT int qemu_plugin_version = 1;

enum class {
    DOT_PRODUCT,
    MATRIX_MULTIPLY,
    INTEGER_MULTIPLY,
    FLOAT_MULTIPLY,
    OTHER_SIMD,
    LOAD_STORE,
    BRANCH,
    OTHER_SCALAR,
    CLASSES
};

static const char *const names[CLASSES] = {
    "dot_product", "matrix_multiply", "integer_multiply_simd", "float_multiply_simd",
    "other_simd",  "load_store",      "branch",                "other_scalar",
};

struct block {
    struct block *next;
    uint64_t runs;
    uint32_t held[CLASSES];
};

static struct block *blocks;
static uint64_t at_start[CLASSES];
static const char *out_path;

/* SIMD three different, as SMLAL: two narrow operands, one wide result. */
static bool is_widening_multiply(uint32_t word)
{
    uint32_t opcode = word >> 12 & 0xf;
    return (word & 0x9f200c00) == 0x0e200000 && (opcode & 8) && opcode != 0xf;
}

/* SIMD three same. The sign bit tells MUL and MLA from their polynomial and floating kin. */
static enum class three_same(uint32_t word)
{
    switch (word >> 11 & 0x1f) {
    case 0x12: /* MLA, MLS */
    case 0x13: /* MUL, PMUL */
    case 0x16: /* SQDMULH, SQRDMULH */
        return INTEGER_MULTIPLY;
    case 0x19: /* FMLA, FMLS; with U set the widening FMLAL2 */
        return FLOAT_MULTIPLY;
    case 0x1b: /* FMUL, FMULX */
        return FLOAT_MULTIPLY;
    default:
        return OTHER_SIMD;
    }
}

/* SIMD vector by element. */
static enum class by_element(uint32_t word)
{
    bool is_u = word >> 29 & 1;
    switch (word >> 12 & 0xf) {
    case 0x1: /* FMLA */
    case 0x5: /* FMLS */
    case 0x9: /* FMUL, FMULX */
        return FLOAT_MULTIPLY;
    case 0x0: /* MLA, with U; FMLAL without */
    case 0x4:
        return is_u ? INTEGER_MULTIPLY : FLOAT_MULTIPLY;
    case 0xe: /* SDOT, UDOT */
        return DOT_PRODUCT;
    case 0xf: /* SUDOT, USDOT; with U SQRDMLSH */
        return is_u ? INTEGER_MULTIPLY : DOT_PRODUCT;
    default: /* MUL, SMLAL, SMLSL, SMULL, SQDM*, SQRDM* */
        return INTEGER_MULTIPLY;
    }
}

static enum class classify_simd(uint32_t word)
{
    if ((word & 0x9f20fc00) == 0x0e009400 || (word & 0xbfe0fc00) == 0x0e809c00) /* SDOT, UDOT; USDOT */
        return DOT_PRODUCT;
    if ((word & 0xdfe0f400) == 0x4e80a400) /* SMMLA, UMMLA, USMMLA */
        return MATRIX_MULTIPLY;
    if (is_widening_multiply(word))
        return INTEGER_MULTIPLY;
    if ((word & 0x9f200400) == 0x0e200400)
        return three_same(word);
    if ((word & 0x9f60c400) == 0x0e400400 && (word >> 11 & 7) != 0) /* three same, half precision */
        return (word >> 11 & 7) == 1 || (word >> 11 & 7) == 3 ? FLOAT_MULTIPLY : OTHER_SIMD;
    if ((word & 0x9f000400) == 0x0f000000)
        return by_element(word);
    if ((word & 0x5f000000) == 0x1f000000) /* scalar FMADD and its kin */
        return FLOAT_MULTIPLY;
    return OTHER_SIMD;
}

static enum class classify(uint32_t word)
{
    if ((word & 0x0a000000) == 0x08000000)
        return LOAD_STORE;
    if ((word & 0x1c000000) == 0x14000000)
        return BRANCH;
    if ((word & 0x0e000000) == 0x0e000000)
        return classify_simd(word);
    return OTHER_SCALAR;
}

static void on_run(unsigned cpu, void *data)
{
    (void)cpu;
    __atomic_fetch_add(&((struct block *)data)->runs, 1, __ATOMIC_RELAXED);
}

static void on_translate(plugin_id id, struct qemu_plugin_tb *tb)
{
    struct block *block = calloc(1, sizeof *block);
    size_t count = qemu_plugin_tb_n_insns(tb);
    (void)id;
    if (!block)
        abort();
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), sizeof word);
        block->held[classify(word)]++;
    }
    block->next = __atomic_load_n(&blocks, __ATOMIC_ACQUIRE);
    while (!__atomic_compare_exchange_n(&blocks, &block->next, block, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_run, 0, block);
}

static void add_up(uint64_t sums[CLASSES])
{
    memset(sums, 0, CLASSES * sizeof sums[0]);
    for (struct block *block = __atomic_load_n(&blocks, __ATOMIC_ACQUIRE); block; block = block->next) {
        uint64_t runs = __atomic_load_n(&block->runs, __ATOMIC_RELAXED);
        for (int kind = 0; kind < CLASSES; kind++)
            sums[kind] += runs * block->held[kind];
    }
}

static void report(uint64_t number)
{
    uint64_t sums[CLASSES], total = 0;
    FILE *file = fopen(out_path, "a");
    if (!file)
        abort();
    add_up(sums);
    fprintf(file, "{\"region\": %" PRIu64 ", \"classes\": {", number);
    for (int kind = 0; kind < CLASSES; kind++) {
        uint64_t executed = sums[kind] - at_start[kind];
        total += executed;
        fprintf(file, "%s\"%s\": %" PRIu64, kind ? ", " : "", names[kind], executed);
    }
    fprintf(file, "}, \"total\": %" PRIu64 "}\n", total);
    fclose(file);
}

static void on_syscall(plugin_id id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                       uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)cpu, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != PRCTL_ARM64 || a1 != ARMCOUNT_MARK)
        return;
    if (a2 == 0)
        add_up(at_start);
    else
        report(a2);
}

EXPORT int qemu_plugin_install(plugin_id id, const struct qemu_info *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4))
            out_path = strdup(argv[i] + 4);
    if (!out_path) {
        fputs("armcount: out=FILE is missing\n", stderr);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    return 0;
}
