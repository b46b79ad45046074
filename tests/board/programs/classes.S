// Executes a known number of instructions of each class between two marks, for the instruction counter's own test.
// The counts stand in test_arm_cost.py.

    .arch armv8.2-a+dotprod+i8mm+fp16
    .text
    .globl _start
_start:
    mov x0, #0x4d43
    movk x0, #0x4152, lsl #16
    mov x1, #0
    mov x8, #167
    mov x19, x0
    adr x20, data
    svc #0

    .rept 3
    sdot v0.4s, v1.16b, v2.16b
    udot v0.4s, v1.16b, v2.4b[1]
    .endr
    .rept 5
    smlal v0.8h, v1.8b, v2.8b
    sqrdmulh v0.4s, v1.4s, v2.4s
    mla v0.8h, v1.8h, v2.h[1]
    .endr
    .rept 7
    fmla v0.4s, v1.4s, v2.4s
    fmla v0.4s, v1.4s, v2.s[1]
    fmul v0.8h, v1.8h, v2.8h
    .endr
    .rept 11
    add v0.16b, v1.16b, v2.16b
    zip1 v0.16b, v1.16b, v2.16b
    .endr
    .rept 13
    ldr q0, [x20]
    ldp x1, x2, [x20]
    .endr
    .rept 17
    b 1f
1:
    .endr
    .rept 19
    add x3, x4, x5
    .endr
#ifdef MATRIX
    .rept 23
    smmla v0.4s, v1.16b, v2.16b
    .endr
#endif

    mov x0, x19
    mov x1, #1
    svc #0
    mov x0, #0
    mov x8, #93
    svc #0

    .balign 16
data:
    .fill 32
