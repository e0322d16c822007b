// Three times as much work in HotAlpha as in HotBeta, until it is killed.
using System;
using System.Runtime.CompilerServices;

static class Shares
{
    [MethodImpl(MethodImplOptions.NoInlining)]
    static double HotAlpha(int n)
    {
        double s = 0;
        for (int i = 0; i < n; i++) s += Math.Sqrt(i) * i;
        return s;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    static double HotBeta(int n)
    {
        double s = 0;
        for (int i = 0; i < n; i++) s += Math.Sqrt(i) * i;
        return s;
    }

    static void Main()
    {
        double t = 0;
        while (t >= 0) t = HotAlpha(30000) + HotBeta(10000);
        Console.WriteLine(t);
    }
}
